"""The command from its arguments to its files, on datasets that are made here."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from evaluation_data import colour_reader, write_instances, write_panoptic, write_semantic  # noqa: E402
from held_folder import held_folder
from PIL import Image
from shapes_dataset import shapes_model, shapes_processor  # noqa: E402
from torch import get_num_threads

from m2f.cli import command_parser, main  # noqa: E402
from m2f.commands.train import open_datasets
from m2f.commands.val import open_validation_data
from m2f.evaluation.measuring_machine import processor_name  # noqa: E402
from m2f.output.folder_lock import LOCK_FILE  # noqa: E402
from m2f.training.option_values import resolve_options

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_instances(folder / "instance")
    write_panoptic(folder / "panoptic")
    write_semantic(folder / "semantic")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Random weights; its panoptic threshold is low, so that it finds something."""
    folder = tmp_path_factory.mktemp("checkpoint")
    shapes_model(task="panoptic", thing_label_ids=[0, 1]).save_pretrained(folder)
    processor = shapes_processor("panoptic")
    processor.panoptic_threshold = 0.0
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def reader(monkeypatch):
    """In place of a checkpoint, the model that reads colours."""

    def load(name, like, trained_for, say, **fields):
        model = colour_reader(like.task, 1)
        return model, model.processor

    monkeypatch.setattr("m2f.commands.val.load_model", load)


def m2f_val(*words) -> int:
    AcceleratorState._reset_state(reset_partial_state=True)  # which lasts for a process, and a command is one
    return main(["val", *map(str, words), "--cpu", "--workers=0"])


def error_of(capsys, *words) -> str:
    """The one line of a command that fails."""
    assert m2f_val(*words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("m2f val: error: ")]
    assert len(lines) == 1
    return lines[0]


def test_numbers_on_the_terminal_and_in_the_folder(data, reader, tmp_path, capsys):
    assert m2f_val("reader", data / "panoptic", "--output", tmp_path / "out") == 0
    captured = capsys.readouterr()
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["machine"]["processor"] == processor_name() and record["machine"]["threads"] == get_num_threads()
    for task, name in (("panoptic", "PQ"), ("instance", "AP"), ("semantic", "mIoU")):
        heading, names, numbers = captured.out[captured.out.index(f"\n{task}") :].splitlines()[1:4]
        assert heading.startswith(task) and names.split()[0] == name
        assert numbers.split()[0] == f"{record['results'][task][name]:.4f}"
        rows = (tmp_path / "out" / f"{task}_classes.csv").read_text().splitlines()
        assert len(rows) == 1 + len(record["per_class"][task])
        with Image.open(tmp_path / "out" / f"{task}_classes.png") as chart:
            assert chart.format == "PNG"
    assert "at most 100 detections of an image" in captured.out
    assert "coco-panoptic, 5 images of split 'val', 3 classes (red, green, blue)" in captured.err
    assert record["images"] == 5 and record["settings"]["checkpoint"] == "reader"
    assert record["versions"]["m2f"] and record["category_ids"] == {"2": "red", "5": "green", "7": "blue"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_folder_that_another_run_writes_to_is_left_alone(data, reader, tmp_path, capsys):
    out = tmp_path / "out"
    with held_folder(out) as process:
        line = error_of(capsys, "reader", data / "panoptic", "--output", out)
        assert f"another run (process {process} on " in line and f"is writing to {out}; wait for its end" in line
        assert [path.name for path in out.iterdir()] == [LOCK_FILE]
        # A dry run writes nothing, and the lock is no file of somebody else's.
        assert m2f_val("reader", data / "panoptic", "--output", out, "--dry-run") == 0
    assert m2f_val("reader", data / "panoptic", "--output", out) == 0
    assert not (out / LOCK_FILE).exists()


def test_json_alone_on_stdout(data, reader, capsys):
    assert m2f_val("reader", data / "instance", "--json", "--boundary", "--max-detections=150") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["settings"]["max_detections"] == 150
    assert {"AP", "BoundaryAP", "AR150"} <= set(record["results"]["instance"])


def test_a_dataset_without_numbers_of_its_own(data, reader, tmp_path):
    """Labels, and positions of the images, whose names are beside them."""
    words = ["--flip", "--scales=0.5,1", "--output", tmp_path / "out"]
    assert m2f_val("reader", data / "semantic", "--task=semantic", *words) == 0
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["category_ids"] == {"0": "red", "1": "green", "2": "blue"}
    assert record["image_ids"]["3"] == "train-3.png"
    assert (record["settings"]["scales"], record["settings"]["flip"]) == ([0.5, 1.0], True)


def test_one_task_of_a_checkpoint_from_a_folder(data, checkpoint, tmp_path, capsys):
    words = ["--task=panoptic", "--shortest-edge=64", "--longest-edge=96", "--panoptic-threshold=0.1", "--json"]
    assert m2f_val(checkpoint, data / "panoptic" / "panoptic_val.json", *words, "--mixed-precision=bf16") == 0
    record = json.loads(capsys.readouterr().out)
    assert list(record["results"]) == ["panoptic"] and record["trained_for"] == "panoptic"
    assert record["processor"] == {"size": {"shortest_edge": 64, "longest_edge": 96}, "panoptic_threshold": 0.1}


def perfect_reader(monkeypatch, **fields) -> list:
    """In place of a checkpoint, the model that reads colours and does not err; the dataset's labels are its answer.
    Gives the models of the commands that follow, one for each."""
    models = []

    def load(name, like, trained_for, say, **processor_fields):
        model = colour_reader(like.task)
        models.append(model)
        for field, value in fields.items():
            setattr(model.processor, field, value)
        return model, model.processor

    monkeypatch.setattr("m2f.commands.val.load_model", load)
    return models


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_tiles_of_a_model_without_error_lose_nothing(data, task, tmp_path, monkeypatch, capsys):
    """Images of 96 pixels in four tiles of 64, those of 64 whole. Segments end on the cells of 4 pixels that the model
    sees, in every tile, so that they come out of the tiles as they came from the whole images."""
    models = perfect_reader(monkeypatch)
    records = []
    for words in (["--tile=0"], ["--tile=64", "--tile-overlap=16", "--batch-size=3"]):
        output = tmp_path / words[0]
        assert m2f_val("reader", data / task, *words, "--output", output, "--json") == 0
        records.append(json.loads(capsys.readouterr().out))
    assert [max(shape[3] for shape in model.shapes) for model in models] == [96, 64]
    whole, tiled = records
    assert set(tiled["results"]) == set(whole["results"])
    for name, results in whole["results"].items():
        number = {"panoptic": "PQ", "instance": "AP", "semantic": "mIoU"}[name]
        assert results[number] > 0.8  # the crowd is in the way of 1
        assert tiled["results"][name][number] == pytest.approx(results[number], abs=0.02)
    names = [sorted(path.name for path in (tmp_path / name).rglob("*")) for name in ("--tile=0", "--tile=64")]
    assert names[0] == names[1]
    settings = [record["settings"] for record in records]
    assert [(s["tile"], s["tile_overlap"], s["max_detections"]) for s in settings] == [(0, 0, 100), (64, 16, 1000)]


def test_the_checkpoints_tile_is_measured(data, monkeypatch, capsys):
    perfect_reader(monkeypatch, tile=64, tile_overlap=20)
    assert m2f_val("reader", data / "panoptic", "--max-detections=7") == 0
    out = capsys.readouterr().out
    assert "panoptic, tiles of 64 pixels, 20 in common\n" in out
    assert "instance, tiles of 64 pixels, 20 in common, at most 7 detections of an image\n" in out
    assert m2f_val("reader", data / "panoptic", "--tile=0") == 0
    assert "tiles" not in capsys.readouterr().out
    assert "are for whole images, not for tiles of 64; give --tile 0" in error_of(
        capsys, "reader", data / "semantic", "--task=semantic", "--flip"
    )
    assert "0 to 32 do" in error_of(capsys, "reader", data / "panoptic", "--tile-overlap=40")


@pytest.mark.parametrize("tile", ["--tile=0", "--tile=64"])
def test_threshold_leaves_instances_out(data, monkeypatch, tmp_path, tile):
    """The reader's class scores are the logistic functions of 22, 23 and 24, times the mask's: above 0.9, below 1."""
    perfect_reader(monkeypatch)
    for threshold, is_empty in (("0.9", False), ("1", True)):
        words = ["--threshold", threshold, "--output", tmp_path / "out", "--overwrite"]
        assert m2f_val("reader", data / "instance", tile, *words) == 0
        assert (json.loads((tmp_path / "out" / "instances.json").read_text()) == []) == is_empty


def test_tiles_in_two_processes_give_the_same(data, checkpoint, tmp_path):
    words = [str(checkpoint), str(data / "panoptic"), "--tile=64", "--batch-size=2"]
    assert m2f_val(*words, "--output", tmp_path / "one") == 0
    in_processes(2, ["val", *words, "--cpu", "--workers=0", "--output", str(tmp_path / "two")])
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert two["images"] == 5
    for task, numbers in one["results"].items():
        assert two["results"][task] == pytest.approx(numbers, abs=1e-9)
    assert (tmp_path / "two" / "instances.json").read_text() == (tmp_path / "one" / "instances.json").read_text()


@pytest.mark.parametrize("room", [0, 300, 3000])
def test_a_full_disk_is_one_line_and_loses_nothing(data, reader, tmp_path, capsys, room):
    """No file can grow beyond `room` bytes: the first one, the predictions, the tables."""
    words = ["reader", data / "panoptic", "--output", tmp_path / "out"]
    limits = pytest.importorskip("resource")
    former = limits.getrlimit(limits.RLIMIT_FSIZE)
    limits.setrlimit(limits.RLIMIT_FSIZE, (room, former[1]))
    try:
        error = error_of(capsys, *words)
    finally:
        limits.setrlimit(limits.RLIMIT_FSIZE, former)
    assert "File too large" in error and str(tmp_path / "out") in error
    assert m2f_val(*words, *(["--overwrite"] if room else [])) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["finished"]


def test_two_processes_give_the_same(data, checkpoint, tmp_path):
    """Five images, so that one process has none left in the end; batches of two."""
    words = [str(checkpoint), str(data / "panoptic"), "--batch-size=2"]
    assert m2f_val(*words, "--output", tmp_path / "one") == 0
    outputs = in_processes(2, ["val", *words, "--cpu", "--workers=0", "--output", str(tmp_path / "two")])
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert two["images"] == 5
    for task, numbers in one["results"].items():
        assert two["results"][task] == pytest.approx(numbers, abs=1e-9), outputs
    for name in ("instances.json", "panoptic.json"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
    pngs = [sorted(path.name for path in (tmp_path / name).glob("*/*.png")) for name in ("one", "two")]
    assert pngs[0] == pngs[1] and len(pngs[0]) == 10
    assert [output.count("\npanoptic\n") for output in outputs] == [1, 0]  # the main process alone speaks


def in_processes(count: int, words: list[str]) -> list[str]:
    """What `accelerate launch -m m2f` starts: the same program with these variables. Gives their outputs."""
    with socket.socket() as listener:  # a port that is free now
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "m2f", *words],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        for rank in range(count)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count, "\n".join(outputs)
    return outputs


def test_a_broken_image(tmp_path, reader, capsys):
    write_instances(tmp_path)
    (tmp_path / "val" / "train-2.png").write_bytes(b"no image")
    assert "train-2.png of the evaluation cannot be read" in error_of(capsys, "reader", tmp_path)
    assert m2f_val("reader", tmp_path, "--on-broken-image=skip", "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 4


def test_bad_input_is_one_line(data, checkpoint, tmp_path, capsys):
    error = error_of(capsys, tmp_path / "nowhere", data / "instance")
    assert "nowhere" in error
    error = error_of(capsys, checkpoint, data / "instance", "--task=panoptic")
    assert "task panoptic cannot be measured" in error and "made for instance" in error
    error = error_of(capsys, checkpoint, data / "instance")
    assert "only in the dataset: blue" in error
    assert "no split 'test'" in error_of(capsys, checkpoint, data / "panoptic", "--split=test")
    assert "ignore_unknown" in error_of(
        capsys, checkpoint, data / "panoptic", "--data-options", "ignore_unknown=false"
    )
    assert "nonsense" in error_of(capsys, checkpoint, data / "panoptic", "--data-options", "nonsense=1")
    assert "--task semantic alone" in error_of(capsys, checkpoint, data / "panoptic", "--flip")
    assert "--task semantic alone" in error_of(capsys, checkpoint, data / "panoptic", "--scales=0.5")
    assert "float16 needs a GPU" in error_of(capsys, checkpoint, data / "panoptic", "--mixed-precision=fp16")


def test_no_split_for_validation(tmp_path, reader, capsys):
    """A folder needs a name for the split; a file is the split."""
    path = write_instances(tmp_path).rename(tmp_path / "instances_train.json")
    assert "the splits train, none of which is for validation; give --split" in error_of(capsys, "reader", tmp_path)
    assert m2f_val("reader", path) == 0
    path.write_text(json.dumps({**json.loads(path.read_text()), "images": [], "annotations": []}))
    assert "has no image" in error_of(capsys, "reader", path, "--image-folder", tmp_path / "val")


def test_results_of_another_run_are_safe(data, reader, tmp_path, capsys):
    words = ["reader", data / "instance", "--output", tmp_path / "out"]
    assert m2f_val(*words) == 0
    assert "--overwrite" in error_of(capsys, *words)
    assert m2f_val(*words, "--overwrite") == 0
    (tmp_path / "model").write_text("weights")
    assert "did not write (model" in error_of(capsys, *words[:3], tmp_path)


@pytest.mark.parametrize(
    "words", [["--scales=0"], ["--scales=1,1"], ["--scales=x"], ["--batch-size=0"], ["--workers=x"]]
)
def test_wrong_arguments(words, capsys):
    with pytest.raises(SystemExit):
        main(["val", "checkpoint", "data", *words])
    assert "error: argument --" in capsys.readouterr().err


def test_images_are_read_with_the_white_level_of_checkpoint_or_options(data, monkeypatch, capsys):
    """The measurement itself is not made."""
    seen = []

    def load(name, like, trained_for, say, **fields):
        model = colour_reader(like.task, 1)
        saved = {**model.processor.to_dict(), "white_level": 4095, **fields}
        seen.append(like)
        return model, type(model.processor).from_dict(saved)

    monkeypatch.setattr("m2f.commands.val.load_model", load)
    for words, expected in (
        ([], 4095),
        (["--white-level=type"], "type"),
        (["--white-level=auto"], None),
        (["--data-options", "white_level=300"], 300),
    ):
        assert m2f_val("reader", data / "panoptic", "--dry-run", *words) == 0
        assert seen[-1].white_level == expected


def names_of(dataset) -> list[str]:
    return [dataset.name_of(index) for index in range(len(dataset))]


def test_the_images_that_training_holds_out(tmp_path):
    """Of a folder and of the file itself, of the split that training was told or of the only one."""
    write_instances(tmp_path / "export", count=12)
    (tmp_path / "export" / "instances_val.json").rename(tmp_path / "export" / "instances_default.json")
    held = []
    for words in (
        [tmp_path / "export"],
        [tmp_path / "export", "--split=instances_default"],
        [tmp_path / "export" / "instances_default.json"],
    ):
        args = command_parser("val").parse_args(["x", *map(str, words), "--validation-fraction=0.3"])
        held.append(names_of(open_validation_data(args)))
    options = {"data": str(words[0]), "validation_fraction": 0.3}
    kept, evaluated = map(names_of, open_datasets(resolve_options(options)))
    assert held == [evaluated] * 3 and len(kept) + len(evaluated) == 12 and kept


def test_a_fraction_of_no_split_to_train_on(data, reader, tmp_path, capsys):
    write_instances(tmp_path)
    copy = tmp_path / "other.json"
    copy.write_bytes((tmp_path / "instances_val.json").read_bytes())
    text = error_of(capsys, "reader", tmp_path, "--validation-fraction=0.3")
    assert "has the splits val, other, none of which is for training; give --split" in text
    text = error_of(capsys, "reader", tmp_path, "--split=val", "--validation-fraction=1.5")
    assert "validation_fraction is 1.5; above 0 and below 1 is needed" in text
