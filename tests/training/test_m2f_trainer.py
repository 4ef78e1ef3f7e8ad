"""Trainer and M2FTrainer on the shapes dataset, in one process and in two.

The loss samples the same points in every run that is compared, because random ones depend on the batch that they are
drawn for. Parameters are compared after steps of plain gradient descent, so that their changes are the gradients, to
`ROUNDING` of each tensor's largest change. Those runs are in float64: in float32 an activation near 0 may fall on the
other side of a ReLU in a batch of another size, which changed a tensor by 0.3% on a processor without AVX-512.
"""

import os
import socket
import sys
from pathlib import Path

import pytest
import torch
from backbone_cases import backbone_fields
from shapes_dataset import ShapesDataset, flips, shapes_model, shapes_processor
from shapes_run import MODULES_WITH_POINTS, fixed_points
from shapes_trainer import COUNT, arguments, make_trainer
from transformers import (
    AutoModelForUniversalSegmentation,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from m2f.data.collation import Collator
from m2f.data.training_dataset import TrainingDataset
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.m2f_trainer import DatasetEpoch, M2FTrainer
from m2f.training.parameter_groups import parameter_groups
from m2f.validation.evaluation_loop import evaluate_model

ROUNDING = 2e-6


def exact_model(**fields) -> M2FForUniversalSegmentation:
    """In float64, and so are the images that it is given."""

    def widen(module, args, kwargs):
        return args, {**kwargs, "pixel_values": kwargs["pixel_values"].double()}

    model = shapes_model(**fields).double()
    model.register_forward_pre_hook(widen, with_kwargs=True)
    return model


def plain_trainer(args: TrainingArguments) -> Trainer:
    collator = Collator(shapes_processor(), count_labels=True)
    return Trainer(exact_model(), args, collator, ShapesDataset(COUNT), ShapesDataset(5, seed=1))


def trained(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The parameters' changes; those of the run's log go to the trainer."""
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    return {name: value.detach() - before[name] for name, value in trainer.model.named_parameters()}


def largest_difference(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Relative to each tensor's largest change; tensors that hardly change count as much as one of 1% of the most."""
    most = max(change.abs().max() for change in expected.values())
    assert most > 1e-3  # the runs do something
    return max(
        float((actual[name] - change).abs().max() / max(change.abs().max(), 0.01 * most))
        for name, change in expected.items()
    )


def losses(trainer: Trainer) -> list[dict[str, float]]:
    names = ("loss", "loss_ce", "loss_mask", "loss_dice")
    return [{name: row[name] for name in names} for row in trainer.state.log_history if "loss" in row]


@pytest.fixture
def same_points(monkeypatch):
    for module in MODULES_WITH_POINTS:
        monkeypatch.setattr(f"{module}.uniform_points", fixed_points)


@pytest.fixture
def whole_batch(same_points, tmp_path):
    """Changes and losses of two steps of four images at once."""
    trainer = make_trainer(arguments(tmp_path), exact_model())
    return trained(trainer), losses(trainer)


def test_accumulation_of_unequal_images_is_the_whole_batch(whole_batch, tmp_path):
    """`average_tokens_across_devices`, which is about how Trainer counts, changes nothing."""
    expected, expected_losses = whole_batch
    for others in ({}, {"average_tokens_across_devices": False}):
        trainer = make_trainer(arguments(tmp_path, 1, 4, **others), exact_model())
        assert largest_difference(trained(trainer), expected) < ROUNDING
        for row, expected_row in zip(losses(trainer), expected_losses, strict=True):
            assert row == pytest.approx(expected_row, rel=1e-5)


def with_empty_masks(samples) -> dict[str, torch.Tensor]:
    """A collator of somebody's own, which leaves a mask without a pixel in each image."""
    batch = Collator(shapes_processor(), "masks")(samples)
    masks, classes = batch["mask_labels"], batch["class_labels"]
    batch["mask_labels"] = torch.cat([torch.zeros_like(masks[:, :1]), masks], 1)
    batch["class_labels"] = torch.cat([torch.zeros_like(classes[:, :1]), classes], 1)
    return batch


def test_accumulation_is_exact_with_class_weights_and_masks_without_a_pixel(same_points, tmp_path):
    """Two steps of four images at once, without those masks, give the expected changes."""
    weights = [4.0, 1.0, 0.25]
    expected = trained(make_trainer(arguments(tmp_path), exact_model(class_weights=weights)))
    plain = trained(make_trainer(arguments(tmp_path), exact_model()))
    assert largest_difference(plain, expected) > 0.01
    model = exact_model(class_weights=weights)
    trainer = make_trainer(arguments(tmp_path, 1, 4), model, data_collator=with_empty_masks)
    assert largest_difference(trained(trainer), expected) < ROUNDING


def test_plain_trainer_trains_and_measures_the_loss(whole_batch, tmp_path):
    """With no argument for it: the readers' samples pass by the removal of columns. It is the same step for a whole
    batch, and near it, but not the same, for accumulated images of unequal numbers of targets."""
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True, save_strategy="steps")
    args.save_steps = 1
    assert args.remove_unused_columns
    trainer = plain_trainer(args)
    assert largest_difference(trained(trainer), whole_batch[0]) < ROUNDING
    measured = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert len(measured) == 2 and min(measured) == trainer.state.best_metric > 0
    difference = largest_difference(trained(plain_trainer(arguments(tmp_path, 1, 4))), whole_batch[0])
    assert 0.01 < difference < 1


@pytest.mark.skipif("M2F_LONG_TESTS" not in os.environ, reason="takes minutes; M2F_LONG_TESTS=1 runs it")
def test_a_compiled_trainer_takes_the_same_steps(whole_batch, tmp_path):
    """Through `torch_compile` of its arguments, on a batch with different numbers of targets."""
    args = arguments(tmp_path, torch_compile=True, torch_compile_backend="aot_eager")
    model = shapes_model()
    trainer = make_trainer(args, model)
    torch.compiler.reset()
    trainer.train()
    torch.compiler.reset()
    for row, expected in zip(losses(trainer), whole_batch[1], strict=True):
        assert row == pytest.approx(expected, rel=1e-3)  # the others' are in float64
    trainer.save_model(str(tmp_path / "saved"))
    loaded = M2FForUniversalSegmentation.from_pretrained(tmp_path / "saved").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


class Recorder:
    """An augmentation that changes nothing."""

    def __init__(self):
        self.names = []

    def __call__(self, sample, generator):
        self.names.append(sample.name)
        return sample


def _run_on_rank(rank: int, port: int, folder: str):
    """Two steps in two ways, and evaluations, in one of two processes."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    for module in MODULES_WITH_POINTS:
        sys.modules[module].uniform_points = fixed_points
    results = {}
    for name, settings in {"2": (2, 1), "1x2": (1, 2)}.items():
        augmented = TrainingDataset(ShapesDataset(COUNT), Recorder())
        trainer = make_trainer(
            arguments(folder, *settings, average_tokens_across_devices=name == "2"),
            exact_model(),
            train_dataset=augmented,
            eval_dataset=ShapesDataset(5, seed=1),
        )
        results[name] = {
            "changes": trained(trainer),
            "losses": losses(trainer),
            "seen": list(augmented.augmentation.names),
        }
    results["metrics"] = trainer.evaluate()
    trainer.args.num_train_epochs, trainer.args.max_steps = 2, -1
    trainer.train()
    results["epoch"] = augmented.epoch
    plain = plain_trainer(arguments(folder, 2, eval_strategy="steps", eval_steps=1))
    results["plain"] = {"changes": trained(plain), "eval_loss": plain.evaluate()["eval_loss"]}
    torch.save(results, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as listener:  # a port that is free now
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    torch.multiprocessing.spawn(_run_on_rank, (port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_two_processes_take_the_step_of_one(whole_batch, two_processes):
    expected, expected_losses = whole_batch
    for name in ("2", "1x2"):
        for result in two_processes:
            assert largest_difference(result[name]["changes"], expected) < ROUNDING
            for row, expected_row in zip(result[name]["losses"], expected_losses, strict=True):
                assert row == pytest.approx(expected_row, rel=1e-5)
        assert sorted(two_processes[0][name]["seen"] + two_processes[1][name]["seen"]) == [
            f"train-{i}.png" for i in range(COUNT)
        ]


def test_five_images_on_two_processes_count_as_on_one(whole_batch, two_processes, tmp_path):
    trainer = make_trainer(arguments(tmp_path), exact_model(), eval_dataset=ShapesDataset(5, seed=1))
    trainer.train()
    expected = numbers(trainer.evaluate())
    assert 0 < expected["eval_AR100"] < 1  # numbers that images change
    for result in two_processes:
        assert numbers(result["metrics"]) == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_the_augmentation_of_two_processes_changes_with_the_epoch(two_processes):
    assert [result["epoch"] for result in two_processes] == [1, 1]


def test_plain_trainer_in_two_processes(whole_batch, two_processes):
    """Its evaluation gathers the loss alone."""
    for result in two_processes:
        assert largest_difference(result["plain"]["changes"], whole_batch[0]) < 1
        assert result["plain"]["eval_loss"] == two_processes[0]["plain"]["eval_loss"] > 0


def numbers(metrics: dict[str, float]) -> dict[str, float]:
    """Without times and the like."""
    others = ("runtime", "per_second", "epoch")
    return {name: value for name, value in metrics.items() if not name.endswith(others)}


def test_the_logged_terms_are_those_of_the_logged_loss(tmp_path):
    """With the last prediction alone, the loss is their weighted sum: 2, 5 and 5 by the configuration. Two steps of
    two passes go into the row."""
    trainer = make_trainer(arguments(tmp_path, 2, 2, logging_steps=2), shapes_model(use_auxiliary_loss=False))
    trainer.train()
    (row,) = losses(trainer)
    terms = 2 * row["loss_ce"] + 5 * row["loss_mask"] + 5 * row["loss_dice"]
    assert row["loss"] == pytest.approx(terms, rel=1e-5)


def test_parameter_groups_are_the_originals(tmp_path):
    args = arguments(tmp_path, optim="adamw_torch", learning_rate=1e-4, weight_decay=0.05, adam_beta2=0.99)
    trainer = M2FTrainer(shapes_model(), args, None, ShapesDataset(), processing_class=shapes_processor())
    expected = {group["name"]: group for group in parameter_groups(trainer.model, 1e-4, 0.05)}
    optimizer = trainer.create_optimizer()
    assert [group["name"] for group in optimizer.param_groups][0].startswith("head")  # its rate is the log's
    for group in optimizer.param_groups:
        wanted = expected.pop(group["name"])
        assert (group["lr"], group["weight_decay"], group["betas"][1]) == (wanted["lr"], wanted["weight_decay"], 0.99)
        assert [id(p) for p in group["params"]] == [id(p) for p in wanted["params"]]
    assert not expected
    trainer.train()
    rates = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert rates == [1e-4, 1e-4]


def test_another_backbone_rate_and_another_optimizer(tmp_path):
    optimizer = make_trainer(arguments(tmp_path), backbone_lr_multiplier=0.5).create_optimizer()
    assert {group["lr"] for group in optimizer.param_groups} == {1e-2, 0.5e-2}
    model = shapes_model()
    own = torch.optim.SGD(model.parameters(), lr=1.0)
    assert make_trainer(arguments(tmp_path), model, optimizers=(own, None)).create_optimizer() is own
    chosen = (torch.optim.SGD, {"lr": 0.5, "momentum": 0.9})
    optimizer = make_trainer(arguments(tmp_path), optimizer_cls_and_kwargs=chosen).create_optimizer()
    assert {(group["lr"], group["momentum"]) for group in optimizer.param_groups} == {(0.5, 0.9)}
    trainer = make_trainer(arguments(tmp_path, optim="lomo"))
    trainer.optimizer_cls_and_kwargs = (torch.optim.SGD, {"model": model})
    with pytest.raises(ValueError, match="its own parameter groups"):
        trainer.create_optimizer()


def test_rates_that_fall_with_depth_reach_the_optimizer_and_follow_the_schedule(tmp_path):
    """BEiT's rule, written out: of N = 4 blocks embeddings have decay^5, block i (from 0) decay^(4 - i)."""
    args = arguments(tmp_path, lr_scheduler_type="linear")
    trainer = M2FTrainer(
        shapes_model(backbone_config=backbone_fields("dinov3_vit")),
        args,
        None,
        ShapesDataset(4),
        processing_class=shapes_processor(),
        layer_decay=0.5,
    )
    trainer.train()
    name_of = {parameter: name for name, parameter in trainer.model.named_parameters()}
    groups = trainer.optimizer.param_groups
    shares = {name_of[p]: group["initial_lr"] / 1e-2 for group in groups for p in group["params"]}
    assert shares.keys() == set(name_of.values())
    encoder = "model.pixel_level_module.encoder"
    assert shares["class_predictor.weight"] == shares[f"{encoder}.norm.weight"] == 1
    blocks = [shares[f"{encoder}.model.layer.{i}.mlp.up_proj.weight"] for i in range(4)]
    assert blocks == [0.5**4, 0.5**3, 0.5**2, 0.5]
    assert shares[f"{encoder}.embeddings.cls_token"] == 0.5**5
    rates = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert rates == [1e-2, 0.5e-2]  # the head's, falling to 0 in two steps
    assert {group["lr"] for group in groups} == {0}


def test_rates_that_cannot_fall_with_depth_are_errors_before_training(tmp_path):
    frozen, untold = shapes_model(), shapes_model(backbone_config=backbone_fields("hgnet_v2"))
    frozen.freeze_backbone()
    for model, decay, words in (
        (shapes_model(), 0.0, "layer_decay is 0.0; it must be above 0 and at most 1"),
        (shapes_model(), 1.5, "layer_decay is 1.5; it must be above 0 and at most 1"),
        (frozen, 0.8, "nothing of the backbone is trained"),
        (untold, 0.8, "a hgnet_v2 does not tell"),
    ):
        with pytest.raises(ValueError, match=words):
            make_trainer(arguments(tmp_path), model, layer_decay=decay)


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_evaluation_is_that_of_the_loop(task, tmp_path):
    """Five images in batches of two."""
    dataset, processor = ShapesDataset(5, task), shapes_processor(task)
    trainer = make_trainer(arguments(tmp_path), train_dataset=None, eval_dataset=dataset, processing_class=processor)
    metrics = trainer.evaluate()
    expected = evaluate_model(trainer.model, processor, dataset)
    assert numbers(metrics) == pytest.approx({f"eval_{n}": v for n, v in expected.items()}, abs=1e-6, nan_ok=True)
    assert metrics["eval_samples_per_second"] > 0
    assert trainer.state.log_history[-1].keys() >= metrics.keys()
    assert len(trainer.metric.per_class_table()) == 3
    output = trainer.predict(dataset)
    assert output.predictions is None and output.label_ids is None
    assert numbers(output.metrics).keys() == {f"test_{name}" for name in expected}


def test_several_datasets_and_another_task(tmp_path):
    datasets = {"few": ShapesDataset(1, "panoptic"), "more": ShapesDataset(3, "panoptic")}
    trainer = make_trainer(arguments(tmp_path), eval_dataset=datasets, task="semantic")
    metrics = trainer.evaluate()
    assert {"eval_few_mIoU", "eval_more_mIoU"} <= metrics.keys() and "eval_more_PQ" not in metrics
    args = arguments(tmp_path, eval_strategy="steps", metric_for_best_model="eval_more_mIoU")
    make_trainer(args, eval_dataset=datasets, task="semantic")


def test_the_best_model_is_loaded_and_a_run_that_gets_no_better_stops(tmp_path):
    """Average precision decides, and is the metric's, so that the first of the measured values is the best: with a
    learning rate of 0 all of them are equal."""
    fields = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    args = arguments(
        tmp_path,
        max_steps=9,
        learning_rate=0.0,
        metric_for_best_model="eval_AP",
        load_best_model_at_end=True,
        **fields,
    )
    dataset = ShapesDataset(3)
    trainer = make_trainer(args, eval_dataset=dataset, callbacks=[EarlyStoppingCallback(2)])
    trainer.train()
    assert trainer.state.global_step == 3
    assert (trainer.state.best_global_step, Path(trainer.state.best_model_checkpoint).name) == (1, "checkpoint-1")
    expected = evaluate_model(trainer.model, shapes_processor(), dataset)
    assert trainer.state.best_metric == pytest.approx(expected["AP"], abs=1e-9)


class Worse(TrainerCallback):
    """Says of each evaluation that it is worse than the one before."""

    def on_evaluate(self, args, state, control, metrics, **_):
        metrics["eval_AP"] = 1 / state.global_step


@pytest.mark.skipif("M2F_LONG_TESTS" not in os.environ, reason="takes minutes; M2F_LONG_TESTS=1 runs it")
def test_a_compiled_run_stops_early_and_has_its_best_model(tmp_path):
    """The first checkpoint is the best, and the two after it say that the run is to stop."""
    from torch._dynamo.utils import counters

    fields = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 9}
    fields |= {"metric_for_best_model": "eval_AP", "load_best_model_at_end": True}
    args = arguments(tmp_path, torch_compile=True, torch_compile_backend="aot_eager", **fields)
    callbacks = [Worse(), EarlyStoppingCallback(2)]
    trainer = make_trainer(args, eval_dataset=ShapesDataset(2), callbacks=callbacks)
    torch.compiler.reset()
    counters.clear()
    trainer.train()
    torch.compiler.reset()
    assert trainer.state.global_step == 3 and counters["frames"]["ok"] > 0
    saved = [M2FForUniversalSegmentation.from_pretrained(tmp_path / f"checkpoint-{step}") for step in (1, 3)]
    first, last = (model.state_dict() for model in saved)
    values = trainer.model.state_dict()
    assert values.keys() == first.keys() and all(torch.equal(values[name], first[name]) for name in first)
    assert any(not torch.equal(values[name], last[name]) for name in last)


def test_a_resumed_run_is_the_unbroken_one(tmp_path):
    """Over the end of an epoch of two steps, with random points, orders and flips; to the last bit."""

    def run(folder, resume: bool = False):
        args = arguments(folder, optim="adamw_torch", learning_rate=1e-3, max_steps=5, save_strategy="steps")
        args.save_steps, args.lr_scheduler_type = 3, "polynomial"
        dataset = TrainingDataset(ShapesDataset(COUNT), flips().augmentation)
        trainer = make_trainer(args, shapes_model(seed=int(resume)), train_dataset=dataset)
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3") if resume else None)
        return trainer

    unbroken, resumed = run(tmp_path), run(tmp_path, resume=True)
    expected = unbroken.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert losses(resumed) == losses(unbroken)


def test_a_saved_model_has_its_processor(tmp_path):
    trainer = make_trainer(arguments(tmp_path))
    trainer.save_model()
    model = AutoModelForUniversalSegmentation.from_pretrained(tmp_path)
    assert torch.equal(model.class_predictor.weight, trainer.model.class_predictor.weight)
    assert AutoImageProcessor.from_pretrained(tmp_path).to_dict() == shapes_processor().to_dict()


def test_mixed_precision_trains_and_evaluates(tmp_path):
    """In bfloat16 before training too, when nothing has prepared the model; what is measured is float32."""
    trainer = make_trainer(arguments(tmp_path, bf16=True), eval_dataset=ShapesDataset(2))
    types = []
    trainer.model.class_predictor.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    before = numbers(trainer.evaluate())
    assert types == [torch.bfloat16]
    trainer.train()
    assert all(0 < row["loss"] < 100 for row in losses(trainer))
    assert numbers(trainer.evaluate()).keys() == before.keys()
    assert set(types) == {torch.bfloat16}


def test_augmented_images_keep_their_size(tmp_path):
    augmented = TrainingDataset(ShapesDataset(1, size=32), flips().augmentation)
    sizes = []
    for dataset in (augmented, ShapesDataset(1, size=32), TrainingDataset(ShapesDataset(1, size=32))):
        trainer = make_trainer(arguments(tmp_path), train_dataset=dataset)
        sizes.append(tuple(next(iter(trainer.get_train_dataloader()))["pixel_values"].shape[2:]))
    assert sizes == [(32, 32), (64, 64), (64, 64)]  # the processor's size is 64


def test_the_epoch_reaches_the_dataset(tmp_path):
    dataset = TrainingDataset(ShapesDataset(COUNT))
    trainer = make_trainer(arguments(tmp_path), train_dataset=dataset)
    trainer.state.epoch = 2.5
    DatasetEpoch().on_epoch_begin(trainer.args, trainer.state, trainer.control, trainer.get_train_dataloader())
    assert dataset.epoch == 2
