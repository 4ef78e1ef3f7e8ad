import csv
import json
import os
import signal

import pytest
import torch
from accelerate.tracking import GeneralTracker
from shapes_dataset import ShapesDataset, flips, shapes_model, shapes_options, shapes_processor
from shapes_run import fresh_accelerate, shapes_run
from test_checkpoint_store import disk_of
from transformers import AutoModelForUniversalSegmentation
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from m2f.training.checkpoint_store import CheckpointError, broken_because
from m2f.training.optimization_step import StepResult
from m2f.training.option_values import read_options, resolve_options
from m2f.training.run_folder import TrainingDiverged
from m2f.training.training_run import TrainingRun
from m2f.validation.evaluation_loop import evaluate_model


def rows(folder, name: str = "log.csv") -> list[dict]:
    """Without what depends on the machine."""
    with open(folder / name) as file:
        return [
            {key: value for key, value in row.items() if key not in ("images_per_second", "memory_gib")}
            for row in csv.DictReader(file)
        ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of six steps, evaluated twice, with an average."""
    folder = tmp_path_factory.mktemp("whole")
    run = shapes_run(folder, validation=True, evaluate_every=3, ema_decay=0.5)
    return folder, run, run.run()


def test_the_output_folder_holds_a_model_that_from_pretrained_loads(whole):
    folder, run, outcome = whole
    results = json.loads((folder / "results.json").read_text())
    model = AutoModelForUniversalSegmentation.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    assert type(model).__name__ == "M2FForUniversalSegmentation"
    assert (processor.task, model.config.id2label[2]) == ("instance", "blue")
    assert results["step"] == outcome.best_step and results["metric"] == "AP"
    # The average was evaluated, and it is what is there.
    measured = evaluate_model(model, processor, ShapesDataset(5, seed=1, split="val"))
    assert measured["AR100"] == pytest.approx(results["results"]["AR100"], abs=1e-6)
    assert outcome.best_metric == results["results"]["AP"]


def test_the_results_say_what_a_model_card_needs(whole):
    results = json.loads((whole[0] / "results.json").read_text())
    assert (results["task"], results["images"], results["seconds"] > 0) == ("instance", 5, True)
    assert results["dataset"] == {"format": "shapes", "split": "val", "images": 5}
    assert [row["name"] for row in results["per_class"]] == ["red", "green", "blue"]
    assert results["machine"]["device"] == "cpu" and results["machine"]["processor"]


def test_log_evaluations_curves_samples_and_options_are_written(whole):
    folder, run, outcome = whole
    log = rows(folder)
    assert [row["step"] for row in log] == list("123456")
    # Poly with power 0.9: the rate of the last step, after five others.
    assert float(log[-1]["learning_rate"]) == pytest.approx(1e-3 * (1 / 6) ** 0.9)
    # The sum that the paper's weights make of the terms.
    weights = {"loss_ce": 2, "loss_mask": 5, "loss_dice": 5}
    terms = {name: float(value) for name, value in log[0].items() if name.startswith("loss_")}
    assert len(terms) == 9
    assert float(log[0]["loss"]) == pytest.approx(
        sum(weights["_".join(name.split("_")[:2])] * value for name, value in terms.items()), rel=1e-5
    )
    assert [row["step"] for row in rows(folder, "evaluations.csv")] == ["3", "6"]
    assert {path.name for path in (folder / "samples").iterdir()} == {"step-00000003.png", "step-00000006.png"}
    assert (folder / "curves.png").is_file()
    assert resolve_options({}, read_options(folder / "training_options.yaml")) == run.options


def test_the_loss_falls(whole):
    losses = [float(row["loss"]) for row in rows(whole[0])]
    assert losses[-1] < losses[0] - 1


def test_checkpoints_are_whole_and_the_last_ones_are_kept(whole):
    folder, run, outcome = whole
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names[-2:] == ["step-00000004", "step-00000006"]
    assert outcome.checkpoint.name == "step-00000006"
    assert all(broken_because(folder / "checkpoints" / name) is None for name in names)


def stopped_after(step: int, folder, **fields) -> TrainingRun:
    """A run that a signal stops."""
    run = shapes_run(folder, **fields)
    after_step = run._after_step

    def stop(signals):
        if run.progress.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return after_step(signals)

    run._after_step = stop
    assert run.run().stopped_by == signal.SIGTERM
    return run


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_stopped_run_goes_on_to_the_same_numbers_bit_for_bit(whole, tmp_path, step):
    """Also between two rows of the log, and with the best model so far from before."""
    stopped_after(step, tmp_path, validation=True, evaluate_every=3, ema_decay=0.5)
    outcome = shapes_run(tmp_path, validation=True, evaluate_every=3, ema_decay=0.5).run()
    assert rows(tmp_path) == rows(whole[0])
    assert rows(tmp_path, "evaluations.csv") == rows(whole[0], "evaluations.csv")
    assert (outcome.best_metric, outcome.best_step) == (whole[2].best_metric, whole[2].best_step)
    for name in ("model.safetensors", "checkpoints/step-00000006/optimizer.safetensors"):
        assert (tmp_path / name).read_bytes() == (whole[0] / name).read_bytes()


def swin_run(folder, model=None, checkpoint=None) -> TrainingRun:
    fresh_accelerate()
    options = shapes_options(folder, max_steps=4)
    model = model or shapes_model("swin")
    return TrainingRun(
        options, model, shapes_processor(), ShapesDataset(), augmentation=flips(), checkpoint=checkpoint
    )


def test_a_swin_backbone_goes_on_too(tmp_path):
    """Its tensors have other names on the disk than in the model."""
    swin_run(tmp_path).run()
    whole = (tmp_path / "model.safetensors").read_bytes()
    checkpoint = tmp_path / "checkpoints" / "step-00000002"
    swin_run(tmp_path, AutoModelForUniversalSegmentation.from_pretrained(checkpoint), checkpoint).run()
    assert (tmp_path / "model.safetensors").read_bytes() == whole


def test_a_run_that_is_over_does_nothing_again(whole, capsys):
    folder, _, outcome = whole
    before = (folder / "model.safetensors").stat().st_mtime_ns
    again = shapes_run(folder, validation=True, evaluate_every=3, ema_decay=0.5).run()
    assert again == outcome
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert "going on from" in capsys.readouterr().err


def test_without_evaluation_the_last_model_is_there(tmp_path):
    run = shapes_run(tmp_path, max_steps=2)
    outcome = run.run()
    assert (outcome.best_step, outcome.best_metric) == (None, None)
    model = AutoModelForUniversalSegmentation.from_pretrained(tmp_path)
    trained = run.state.plain_model.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())


def test_a_broken_checkpoint_is_passed_over(tmp_path, capsys):
    shapes_run(tmp_path, max_steps=4).run()
    (tmp_path / "checkpoints" / "step-00000004" / "model.safetensors").write_bytes(b"")
    run = shapes_run(tmp_path, max_steps=5)
    assert run.progress.step == 2
    assert "step-00000004 is broken and passed over: model.safetensors has 0 bytes" in capsys.readouterr().out


def test_a_named_checkpoint_is_gone_back_to(tmp_path):
    shapes_run(tmp_path, max_steps=4).run()
    run = shapes_run(tmp_path, max_steps=4, resume=str(tmp_path / "checkpoints" / "step-00000002"))
    assert run.progress.step == 2
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2"]


def with_results(run: TrainingRun, *results: StepResult):
    """Steps end as these say; the last one is repeated."""
    left = list(results)
    run._do_step = lambda batches, names_of: left.pop(0) if len(left) > 1 else left[0]


EVALUATE = "m2f.training.training_run.evaluate_run"
SKIPPED = StepResult(skipped_because="not finite: loss_ce, at a.png")
FINE = StepResult(1.0, {"loss_ce": 1.0}, 1.0)


def test_steps_that_are_skipped_are_said_and_counted(tmp_path, capsys):
    run = shapes_run(tmp_path, max_steps=4, max_skipped=2, checkpoint_every=0)
    with_results(run, FINE, SKIPPED, FINE, SKIPPED)
    run.run()
    assert "step 2 skipped (1 in all), not finite: loss_ce, at a.png" in capsys.readouterr().err
    assert [row["skipped"] for row in rows(tmp_path)] == ["0", "1", "1", "2"]
    assert [row["loss"] for row in rows(tmp_path)] == ["1.0", "nan", "1.0", "nan"]


def test_a_run_of_skipped_steps_stops_and_leaves_the_last_checkpoint_alone(tmp_path, capsys):
    run = shapes_run(tmp_path, max_steps=50, max_skipped=3, checkpoint_every=1, validation=True, evaluate_every=3)
    with_results(run, FINE, FINE, SKIPPED)
    with pytest.raises(TrainingDiverged) as error:
        run.run()
    text = str(error.value)
    assert "3 steps in a row" in text and "a.png" in text and "--learning-rate (now 0.001)" in text
    assert f"The last checkpoint, {tmp_path / 'checkpoints' / 'step-00000002'}, is whole" in text
    # Neither the weights that may be broken are saved, nor are they evaluated.
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]
    assert "no evaluation after step 3, because it was skipped" in capsys.readouterr().err


def test_overflows_of_fp16_now_and_then_do_not_hinder_a_checkpoint(tmp_path):
    run = shapes_run(tmp_path, max_steps=6, checkpoint_every=1, keep=9)
    overflow = StepResult(1.0, {"loss_ce": 1.0}, 1.0, "the gradient overflows", overflowed=True)
    with_results(run, FINE, overflow, FINE, overflow, overflow, overflow)
    run.run()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step-0000000{i}" for i in (1, 2, 3, 4, 5)]


def test_a_learning_rate_that_diverges_stops_with_a_clear_message(tmp_path, capsys):
    run = shapes_run(tmp_path, learning_rate=1e6, max_steps=60, max_skipped=3, checkpoint_every=0)
    with pytest.raises(TrainingDiverged, match="Lower --learning-rate"):
        run.run()
    assert "learning rate 1e+06 is very large" in capsys.readouterr().err


def test_a_full_disk_stops_with_a_clear_message_and_the_run_goes_on_later(whole, tmp_path):
    fields = {"validation": True, "evaluate_every": 3, "ema_decay": 0.5}
    run = shapes_run(tmp_path, **fields)
    save = run.save_checkpoint

    def save_on_full_disk():
        with disk_of(100_000 if run.progress.step == 4 else 10**9):
            save()

    run.save_checkpoint = save_on_full_disk
    with pytest.raises(
        CheckpointError, match="step 4 cannot be written.*the last whole checkpoint is .*step-00000002"
    ):
        run.run()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    shapes_run(tmp_path, **fields).run()
    assert rows(tmp_path) == rows(whole[0])


def test_only_a_better_model_replaces_the_best(tmp_path, monkeypatch):
    values = iter([0.5, 0.4, 0.6, float("nan")])
    monkeypatch.setattr(EVALUATE, lambda *_, **__: ({"AP": next(values), "AP50": 1.0}, {}))
    run = shapes_run(tmp_path, validation=True, max_steps=4, evaluate_every=1, checkpoint_every=1, keep=1)
    outcome = run.run()
    assert (outcome.best_metric, outcome.best_step) == (0.6, 3)
    assert json.loads((tmp_path / "results.json").read_text())["step"] == 3
    # The best step's checkpoint is kept beside the latest.
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]


def test_an_unknown_metric_is_an_error_at_once(tmp_path):
    with pytest.raises(ValueError, match="metric is 'mIoU'; for a dataset of task 'instance' it is one of AP, AP50"):
        shapes_run(tmp_path, metric="mIoU")
    assert shapes_run(tmp_path, metric="AP50").metric == "AP50"


class Recorder(GeneralTracker):
    """A tracker of one's own, as Accelerate takes them."""

    name, requires_logging_directory = "recorder", False

    def __init__(self):
        super().__init__()
        self.config, self.logged = None, []

    @property
    def tracker(self):
        return self.logged

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **_):
        self.logged.append((step, values))


def test_trackers_get_options_losses_and_results(tmp_path):
    fresh_accelerate()
    recorder = Recorder()
    from accelerate import Accelerator

    options = shapes_options(tmp_path, max_steps=2, log_with=("recorder",), milestones=())
    run = TrainingRun(
        options,
        shapes_model(),
        shapes_processor(),
        ShapesDataset(),
        ShapesDataset(2),
        augmentation=flips(),
        accelerator=Accelerator(cpu=True, log_with=[recorder]),
    )
    run.run()
    assert recorder.config["learning_rate"] == 1e-3
    assert [step for step, _ in recorder.logged] == [1, 2, 2]
    assert recorder.logged[0][1]["loss"] > 0 and "eval_AP" in recorder.logged[2][1]


def test_bfloat16_and_gradient_checkpointing_train(tmp_path):
    """Within bfloat16's precision of the same run in float32."""
    run = shapes_run(tmp_path / "a", max_steps=2, mixed_precision="bf16", gradient_checkpointing=True)
    assert any(getattr(module, "gradient_checkpointing", False) for module in run.state.plain_model.modules())
    run.run()
    shapes_run(tmp_path / "b", max_steps=2).run()
    half, full = ([float(row["loss"]) for row in rows(tmp_path / name)] for name in "ab")
    assert half == pytest.approx(full, rel=0.05) and half != full


def test_options_for_evaluation_reach_it(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(EVALUATE, lambda *_, **kwargs: seen.update(kwargs) or ({"AP": 0.1}, {}))
    run = shapes_run(tmp_path, validation=True, evaluation_batch_size=3, on_broken_image="skip")
    run.evaluate()
    assert (seen["batch_size"], seen["workers"], seen["skip_broken"]) == (3, 0, True)
