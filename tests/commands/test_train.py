"""The command from its flags to its folder, on a COCO dataset of a few images that is made here."""

import argparse
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from huggingface_hub import ModelCard
from PIL import Image
from small_models import BACKBONES, SMALL
from transformers import AutoModelForUniversalSegmentation
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from m2f.commands.train import (
    _evaluation_size,
    add_arguments,
    closing_line,
    keep_license,
    make_processor,
    open_datasets,
    run,
)
from m2f.configuration.configuration_m2f import M2FConfig
from m2f.evaluation.measuring_machine import processor_name
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.output.folder_lock import FolderBusyError
from m2f.training.option_values import read_options, resolve_options
from m2f.training.run_folder import TrainingDiverged
from m2f.training.training_run import RunOutcome

ROOT = Path(__file__).parents[2]
COLOURS = {"red": (220, 0, 0), "green": (0, 220, 0)}


def write_split(folder: Path, split: str, count: int, names=tuple(COLOURS)):
    """`count` images of one rectangle of each class."""
    (folder / split).mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 60, (64, 64, 3), np.uint8)
        for label, name in enumerate(names):
            left, top = 8 * (number % 3), 8 + 32 * label
            pixels[top : top + 16, left : left + 24] = COLOURS.get(name, (0, 0, 220))
            polygon = [left, top, left + 24, top, left + 24, top + 16, left, top + 16]
            shape = {"segmentation": [polygon], "bbox": [left, top, 24, 16], "area": 384, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, **shape})
        Image.fromarray(pixels).save(folder / split / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 64})
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_split(folder, "train", 5)
    write_split(folder, "val", 2)
    return folder


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.json"
    small = {name: value for name, value in SMALL.items() if name != "num_labels"}
    path.write_text(json.dumps({**small, "backbone_config": BACKBONES["resnet"], "decoder_layers": 3}))
    return path


def m2f_train(*words) -> int:
    AcceleratorState._reset_state(reset_partial_state=True)  # which lasts for a process, and a command is one
    parser = argparse.ArgumentParser(prog="m2f train")
    add_arguments(parser)
    return run(parser.parse_args([str(word) for word in words]))


def flags(data, scratch, output, **others) -> list:
    values = {"data": data, "scratch": scratch, "output": output, "max_steps": 2, "batch_size": 2, "crop_size": 64}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in {**values, "workers": 0, **others}.items()]
    return ["--cpu", *words]


@pytest.fixture(scope="module")
def trained(data, scratch, tmp_path_factory):
    """A run, and what it said."""
    output = tmp_path_factory.mktemp("runs") / "first"
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("m2f.commands.train.printer", lambda is_main: lines.append)
        assert m2f_train(*flags(data, scratch, output)) == 0
    return output, lines


def test_own_json_to_a_model_and_its_number(trained):
    output, lines = trained
    model = AutoModelForUniversalSegmentation.from_pretrained(output)
    processor = AutoImageProcessor.from_pretrained(output)
    assert model.config.id2label == {0: "red", 1: "green"}
    # The crop's size is the evaluation's too.
    assert (processor.task, dict(processor.size)) == ("instance", {"longest_edge": 64})
    results = json.loads((output / "results.json").read_text())
    assert "5 images to train on, 2 classes (red, green)" in lines[0]
    assert "2 images of split 'val' to evaluate on" == lines[1]
    assert lines[-1] == f"best model: {output} (AP {results['results']['AP']:.4f} after step 2)"


def test_the_model_has_a_card_with_what_is_known(trained):
    """The licence, and a name for the data, are for whoever publishes it to say."""
    output, lines = trained
    card = ModelCard.load(output / "README.md")
    assert lines[-2] == f"model card: {output / 'README.md'}"
    assert (card.data.pipeline_tag, card.data.library_name) == ("image-segmentation", "transformers")
    assert (card.data.license, card.data.datasets) == (None, None)
    value = json.loads((output / "results.json").read_text())["results"]["AP"]
    for text in ("m2f train --config", "max_steps: 2", f"| {value:.4f} |", "| 1 | green |", "after step 2"):
        assert text in card.text
    assert "Speed of the training:" in card.text and processor_name() in card.text
    for picture in ("card/predictions.png", "card/curves.png"):
        assert f"]({picture})" in card.text and (output / picture).is_file()


def test_facts_of_the_options_are_in_the_card_and_a_changed_card_stays(data, scratch, tmp_path, capsys):
    words = [*flags(data, scratch, tmp_path, max_steps=1), "--license=mit", "--dataset", "user/red", "user/green"]
    assert m2f_train(*words) == 0
    path = tmp_path / "README.md"
    card = ModelCard.load(path)
    assert (card.data.license, card.data.datasets) == ("mit", ["user/red", "user/green"])
    assert {result.metric_type for result in card.data.eval_results} == {"mask_ap", "mask_ap_50"}
    assert m2f_train(*words, "--max-steps=2") == 0
    assert "after step 2" in path.read_text() or "after step 1" in path.read_text()
    path.write_text(path.read_text() + "A word of mine.\n")
    before = path.read_text()
    assert m2f_train(*words, "--max-steps=3") == 0
    assert path.read_text() == before and "--new-card" in capsys.readouterr().err


def test_weights_of_the_authors_keep_their_licence_in_training(trained, data, scratch, tmp_path):
    """Recorded in the configuration, from which later trainings and conversions know it."""
    start = tmp_path / "facebook" / "start"
    shutil.copytree(trained[0], start, ignore=shutil.ignore_patterns("checkpoints", "README.md"))
    fields = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps({**fields, "weights_license": "cc-by-nc-4.0"}))
    words = ["--cpu", f"--data={data}", f"--model={start}", "--max-steps=1", "--batch-size=1", "--workers=0"]
    with pytest.raises(ValueError, match="'mit' cannot be stated.*cc-by-nc-4.0"):
        m2f_train(*words, f"--output={tmp_path / 'run'}", "--license=mit")
    assert not (tmp_path / "run" / "model.safetensors").exists()  # it is said before the training
    for more in ((), ("--reset-classifier",)):
        output = tmp_path / f"run{len(more)}"
        assert m2f_train(*words, f"--output={output}", "--validation-split=none", *more) == 0
        assert json.loads((output / "config.json").read_text())["weights_license"] == "cc-by-nc-4.0"
        assert ModelCard.load(output / "README.md").data.license == "cc-by-nc-4.0"
    released = resolve_options({"model": "facebook/mask2former-swin-tiny-coco-instance"})
    config = M2FConfig()
    keep_license(config, released)
    assert config.weights_license == "cc-by-nc-4.0"


def test_the_options_that_were_used_are_beside_the_weights(trained, data, scratch):
    options = resolve_options({}, read_options(trained[0] / "training_options.yaml"))
    assert (options.data, options.scratch, options.max_steps) == (str(data), str(scratch), 2)
    assert options.learning_rate == 1e-4  # a default, written out


def test_the_same_command_goes_on(trained, data, scratch, tmp_path, capsys):
    words = flags(data, scratch, tmp_path, validation_split="none")
    assert m2f_train(*words) == 0
    assert m2f_train(*words, "--max-steps=3") == 0
    text = capsys.readouterr().err
    assert "step 2 of 3" in text
    assert text.rstrip().endswith(f"model: {tmp_path} (step 3, not evaluated)")


def test_a_fine_tune_starts_with_the_checkpoints_processor(trained, data, tmp_path):
    words = ["--cpu", f"--data={data}", f"--model={trained[0]}", "--max-steps=1", "--batch-size=1", "--workers=0"]
    assert m2f_train(*words, f"--output={tmp_path}", "--crop-size=96", "--panoptic-threshold=0.5") == 0
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert (dict(processor.size), processor.panoptic_threshold) == ({"longest_edge": 96}, 0.5)


def test_other_classes_need_a_new_classifier(trained, tmp_path, scratch):
    write_split(tmp_path / "data", "train", 2, ("red", "blue"))
    words = ["--cpu", f"--data={tmp_path / 'data'}", f"--model={trained[0]}", f"--output={tmp_path / 'run'}"]
    words += ["--max-steps=1", "--batch-size=1", "--workers=0", "--crop-size=64"]
    with pytest.raises(
        ValueError, match="only in the dataset: blue; only in the checkpoint: green.*--reset-classifier"
    ):
        m2f_train(*words)
    assert m2f_train(*words, "--reset-classifier") == 0
    model = AutoModelForUniversalSegmentation.from_pretrained(tmp_path / "run")
    assert model.config.id2label == {0: "red", 1: "blue"}


def test_classes_that_differ_between_the_splits_are_an_error(tmp_path, scratch):
    write_split(tmp_path, "train", 1)
    write_split(tmp_path, "val", 1, ("red", "blue"))
    with pytest.raises(ValueError, match="split 'val', which evaluates"):
        m2f_train(*flags(tmp_path, scratch, tmp_path / "run"))


def test_a_file_of_options_does_the_same(data, scratch, tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text(
        f"data: {data}\nscratch: {scratch}\noutput: {tmp_path / 'run'}\nmax_steps: 1\nbatch_size: 1\ncrop_size: 64\n"
        "workers: 0\ncpu: true\nvalidation_split: none\n"
    )
    assert m2f_train("--config", file) == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_tiles_of_a_checkpoint_go_with_its_size(tmp_path):
    """At the size of a new augmentation the model learns whole images; without one it keeps to what it knows."""
    M2FImageProcessor(tile=128, tile_overlap=48, size={"longest_edge": 192}).save_pretrained(tmp_path)
    config = SimpleNamespace(task="instance", thing_label_ids=None, backbone_config=SimpleNamespace(num_channels=3))
    model = SimpleNamespace(config=config)
    for options, expected in (
        ({"crop_size": 64}, ({"longest_edge": 64}, None, None)),
        ({"augmentation": "none"}, ({"longest_edge": 192}, 128, 48)),
    ):
        processor = make_processor(resolve_options({"model": str(tmp_path), **options}), model, None, print)
        assert (dict(processor.size), processor.tile, processor.tile_overlap) == expected


@pytest.mark.parametrize("sizes", [{"shortest_edge": 32}, {"shortest_edge": 32, "longest_edge": 48}])
def test_the_size_of_evaluation_is_what_the_options_say(sizes):
    options = resolve_options({"crop_size": 64, **sizes})
    assert _evaluation_size(options) == sizes
    assert _evaluation_size(resolve_options({"augmentation": "none"})) is None
    expected = {"shortest_edge": 800, "longest_edge": 1333}
    assert _evaluation_size(resolve_options({"augmentation": "coco-instance"})) == expected


def test_validation_data_of_its_own(data, scratch, tmp_path):
    write_split(tmp_path / "other", "val", 3)
    options = resolve_options({"data": str(data), "validation_data": str(tmp_path / "other" / "val.json")})
    training, validation = open_datasets(options)
    assert (len(training), len(validation)) == (5, 3)
    assert open_datasets(resolve_options({"data": str(data), "validation_split": "none"}))[1] is None


@pytest.fixture
def unsplit(tmp_path) -> Path:
    """All in one split of a name that tells nothing."""
    write_split(tmp_path / "export", "images", 12)
    return (tmp_path / "export" / "images.json").rename(tmp_path / "export" / "instances_default.json").parent


def test_a_part_of_an_export_in_one_split_is_held_out(unsplit):
    with pytest.raises(ValueError, match="has no split 'train'; it has 'instances_default'; --train-split 'instances"):
        open_datasets(resolve_options({"data": str(unsplit), "validation_fraction": 0.3}))
    names = []
    for data in (
        {"data": str(unsplit), "train_split": "instances_default"},
        {"data": f"{unsplit}/instances_default.json"},
    ):
        parts = open_datasets(resolve_options({**data, "validation_fraction": 0.3}))
        names.append([[part.name_of(index) for index in range(len(part))] for part in parts])
        assert open_datasets(resolve_options(data))[1] is None
    assert names[0] == names[1] and sorted(sum(names[0], [])) == sorted(f"{number}.png" for number in range(12))
    assert all(names[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 0.0}, "validation_fraction is 0.0; above 0 and below 1"),
        ({"validation_fraction": 1}, "validation_fraction is 1.0; above 0 and below 1"),
        ({"validation_fraction": 1e-6}, "holds none of them out"),
        ({"validation_fraction": 0.3, "validation_split": "val"}, "0.3 and validation_split is 'val'; give one"),
        ({"validation_fraction": 0.3, "validation_split": "none"}, "0.3 and validation_split is 'none'; give one"),
        ({"validation_fraction": 0.3, "validation_data": "x"}, "0.3 and validation_data is 'x'; give one"),
    ],
)
def test_a_fraction_that_does_not_fit_is_refused(unsplit, options, message):
    with pytest.raises(ValueError, match=message):
        open_datasets(resolve_options({"data": str(unsplit), "train_split": "instances_default", **options}))


def test_a_fraction_beside_a_split_to_evaluate_on_is_refused(data):
    with pytest.raises(ValueError, match="fraction is 0.3, but .* has the split 'val' to evaluate on; leave the frac"):
        open_datasets(resolve_options({"data": str(data), "validation_fraction": 0.3}))


def test_a_run_with_held_out_images_goes_on_with_the_same(unsplit, scratch, tmp_path, capsys):
    words = flags(unsplit, scratch, tmp_path / "run", train_split="instances_default", validation_fraction=0.3)
    seen = []
    for steps in (1, 2):
        assert m2f_train(*words, f"--max-steps={steps}", "--evaluate-every=1") == 0
        text = capsys.readouterr().err
        seen.append([line for line in text.splitlines() if "images to train on" in line or "held out" in line])
        assert "other dataset length" not in text
    assert seen[0] == seen[1] and len(seen[0]) == 2 and "(--validation-fraction)" in seen[0][1]
    assert "best model" in text and "step 1 of 2" in text


def test_options_of_the_reader_reach_it(data):
    options = resolve_options({"data": str(data), "data_options": ["ignore_unknown=false"]})
    open_datasets(options)
    with pytest.raises(ValueError, match="data_options.*nonsense"):
        open_datasets(resolve_options({"data": str(data), "data_options": ["nonsense=1"]}))
    with pytest.raises(ValueError, match="'nonsense'.*NAME=VALUE"):
        open_datasets(resolve_options({"data": str(data), "data_options": ["nonsense"]}))


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (RunOutcome(9, "AP", 0.51234, 6, Path("c")), "best model: m2f_run (AP 0.5123 after step 6)"),
        (RunOutcome(9, "AP", None, None, Path("c")), "model: m2f_run (step 9, not evaluated)"),
        (
            RunOutcome(9, "AP", 0.5, 6, Path("c"), 2),
            "stopped by SIGINT after step 9; the same command goes on from c",
        ),
    ],
)
def test_the_closing_line(outcome, line):
    assert closing_line(outcome, resolve_options({})) == line


class Ended:
    """In place of a run: it ends as it is told."""

    how: RunOutcome | Exception

    def __init__(self, *_, **__):
        pass

    def run(self) -> RunOutcome:
        if isinstance(self.how, Exception):
            raise self.how
        return self.how


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        (RunOutcome(3, "AP", None, None, Path("c"), 2), 130, "stopped by SIGINT"),
        (RunOutcome(3, "AP", None, None, Path("c"), 15), 143, "stopped by SIGTERM"),
        (TrainingDiverged("5 steps in a row"), 1, "training diverged: 5 steps in a row"),
    ],
)
def test_exit_codes(data, scratch, tmp_path, monkeypatch, capsys, how, code, words):
    monkeypatch.setattr("m2f.commands.train.TrainingRun", Ended)
    monkeypatch.setattr(Ended, "how", how, raising=False)
    assert m2f_train(*flags(data, scratch, tmp_path)) == code
    assert words in capsys.readouterr().err


def test_a_folder_that_another_run_writes_to_is_left_alone(data, scratch, tmp_path, monkeypatch):
    """Two runs in one folder wrote two headers into log.csv, and each removed the other's unfinished checkpoint."""

    @contextmanager
    def busy(folder):
        raise FolderBusyError(f"another run (process 7 on here) is writing to {folder}")
        yield

    monkeypatch.setattr("m2f.commands.train.locked_folder", busy)
    with pytest.raises(FolderBusyError, match="another run"):
        m2f_train(*flags(data, scratch, tmp_path / "out"))


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(ValueError, match="give --data"):
        m2f_train("--cpu")


def test_the_white_level_is_kept_with_the_model_and_reads_the_images(data, scratch, tmp_path, monkeypatch):
    """From the options, the reader's options or the checkpoint, in this order; the run itself is not started."""
    seen = []

    def training_run(options, model, processor, dataset, validation, **_):
        seen.append((processor.white_level, dataset.white_level, validation.white_level))
        model.save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
        raise TrainingDiverged("not started")

    monkeypatch.setattr("m2f.commands.train.TrainingRun", training_run)
    start = flags(data, scratch, tmp_path / "run")
    with pytest.raises(TrainingDiverged):
        m2f_train(*start, "--white-level=4095")
    again = [word for word in start if not word.startswith("--scratch")] + [f"--model={tmp_path / 'model'}"]
    for words in (again, [*again, "--data-options", "white_level=2000"], [*again, "--white-level=data"]):
        with pytest.raises(TrainingDiverged):
            m2f_train(*words)
    with pytest.raises(TrainingDiverged):
        m2f_train(*again, "--white-level=auto")
    assert seen == [(level,) * 3 for level in (4095, 4095, 2000, "data", None)]


def test_a_wrong_white_level_is_an_error_before_the_data_are_read(tmp_path):
    with pytest.raises(ValueError, match="white_level must be"):
        open_datasets(resolve_options({"data": str(tmp_path / "nothing"), "white_level": "white"}))


def test_a_white_level_in_a_file_of_options_may_be_a_number(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("white_level: 4095\n")
    assert read_options(path) == {"white_level": "4095"}


def test_crowds_alone_are_refused_before_training(tmp_path):
    """As tools write them that mark every mask; as objects they are trained on."""
    write_split(tmp_path, "train", 2)
    content = json.loads((tmp_path / "train.json").read_text())
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    (tmp_path / "train.json").write_text(json.dumps(content))
    options = {"data": str(tmp_path), "validation_split": "none", "output": str(tmp_path / "out"), "scratch": "x"}
    with pytest.raises(ValueError, match="nothing to learn in .*: 4 of 4 annotations are crowd .* crowd=object takes"):
        open_datasets(resolve_options(options))
    dataset, _ = open_datasets(resolve_options({**options, "data_options": ("crowd=object",)}))
    assert len(dataset[0].segments.class_ids) == 2


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_lost_process_ends_the_run_in_one_line_and_one_process_goes_on(data, scratch, tmp_path, capfd):
    """Of two, as `torchrun` and `accelerate launch` start them, one is killed."""
    words = flags(data, scratch, tmp_path, max_steps=400, checkpoint_every=2, log_every=1, validation_split="none")
    with socket.socket() as listener:  # a port that is free now
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    first, second = (
        subprocess.Popen(
            [sys.executable, "-m", "m2f", "train", *words],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in (0, 1)
    )
    said = list(itertools.takewhile(lambda line: not line.startswith("step 4/"), first.stderr))
    second.kill()
    second.communicate()
    errors = first.communicate(timeout=300)[1]
    assert first.returncode == 2, (said, errors)
    (line,) = [line for line in errors.splitlines() if not line.startswith("step ")]
    assert line.startswith("m2f train: error: another process of this run has ended"), errors
    steps = [int(step.name.removeprefix("step-")) for step in (tmp_path / "checkpoints").glob("step-*")]
    assert max(steps) >= 2
    assert m2f_train(*words, "--max-steps", max(steps) + 1) == 0
    output = capfd.readouterr().err
    assert f"step {max(steps)} of {max(steps) + 1}" in output and "other processes than before: 2 -> 1" in output
