"""The command from its arguments to its files, with a model that reads scenes whose segments are known."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from held_folder import held_folder
from object_reader import Thing, draw, object_reader  # noqa: E402
from PIL import Image
from small_models import small_model  # noqa: E402

from m2f.cli import main  # noqa: E402
from m2f.image_processing.image_processing_m2f import M2FImageProcessor  # noqa: E402
from m2f.inference.segmenter import Segmenter  # noqa: E402
from m2f.output.folder_lock import LOCK_FILE  # noqa: E402

ROOT = Path(__file__).parents[2]
SIZE = (64, 96)


def scene(count: int) -> list[Thing]:
    """Sky, and so many cells and vessels in turn."""
    sky = Thing(1, 2, 0.9, 0, 0, *SIZE)
    return [sky] + [Thing(2 + i, i % 2, 0.8 - 0.1 * i, 8, 16 * i + 4, 40, 16 * i + 16) for i in range(count)]


@pytest.fixture
def images(tmp_path) -> Path:
    """Three, with 0, 1 and 2 things."""
    folder = tmp_path / "images"
    folder.mkdir()
    for count in range(3):
        draw(SIZE, scene(count)).save(folder / f"{count}.png")
    return folder


@pytest.fixture
def reader(monkeypatch):
    """In place of a checkpoint, the model that reads scenes."""
    model = object_reader("panoptic")

    def load(args, device):
        settings = {"threshold": args.threshold, "tile": args.tile, "batch_size": args.batch_size}
        return Segmenter(model, model.processor, args.task, **settings)

    monkeypatch.setattr("m2f.commands.predict.load_segmenter", load)
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Random weights; its panoptic threshold is low, so that it finds something."""
    folder = tmp_path_factory.mktemp("checkpoint")
    small_model(task="panoptic", thing_label_ids=[0, 1]).save_pretrained(folder)
    fields = {"task": "panoptic", "thing_label_ids": [0, 1], "panoptic_threshold": 0.0}
    M2FImageProcessor(**fields, size={"shortest_edge": 64}).save_pretrained(folder)
    return folder


def m2f_predict(*words) -> int:
    AcceleratorState._reset_state(reset_partial_state=True)  # which lasts for a process, and a command is one
    checkpoint = [] if any(str(word).startswith("--checkpoint") for word in words) else ["--checkpoint=reader"]
    return main(["predict", *map(str, words), *checkpoint, "--device=cpu"])


def error_of(capsys, *words) -> str:
    """The one line of a command that fails."""
    assert m2f_predict(*words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("m2f predict: error: "), lines
    return lines[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, without what differs from run to run: the state of the checkpoint and of the inputs."""
    skipped = ("settings.json", "report.html")
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if not name.startswith("records/") and name not in skipped
    }


def test_files(images, reader, tmp_path, capsys):
    from pycocotools.coco import COCO

    out = tmp_path / "out"
    assert m2f_predict(images, "--output", out, "--batch-size=2") == 0
    printed = capsys.readouterr().out
    assert (
        "3 images" in printed and "6 segments: sky 3, cell 2, <b>vessel</b> 1" in printed and "report.html" in printed
    )
    coco = COCO(str(out / "predictions.json"))
    assert [image["file_name"] for image in coco.dataset["images"]] == ["0.png", "1.png", "2.png"]
    assert coco.dataset["categories"][2] == {"id": 2, "name": "sky", "isthing": 0}
    # The last image: sky first or last, a cell of 32 x 12 at (4, 8), a vessel beside it; corners are rounded off.
    cell = next(a for a in coco.dataset["annotations"] if a["image_id"] == 3 and a["category_id"] == 0)
    assert cell["bbox"] == [4, 8, 12, 32] and 380 <= cell["area"] <= 384 and coco.annToMask(cell).sum() == cell["area"]
    rows = list(csv.DictReader((out / "objects.csv").open(encoding="utf-8")))
    assert len(rows) == 6
    row = next(row for row in rows if row["image"] == "2.png" and row["class"] == "cell")
    assert [row[edge] for edge in ("left", "top", "width", "height")] == ["4", "8", "12", "32"]
    labels = np.asarray(Image.open(out / "labels" / "2.png"))
    assert labels.shape == SIZE and (labels == int(row["id"])).sum() == int(row["area"])
    assert float(row["score"]) == pytest.approx(0.8, abs=0.01)
    with Image.open(out / "overlays" / "2.png") as overlay:
        assert overlay.size == SIZE[::-1] and overlay.mode == "RGB"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_folder_that_another_run_writes_to_is_left_alone(images, reader, tmp_path, capsys):
    out = tmp_path / "out"
    with held_folder(out) as process:
        line = error_of(capsys, images, "--output", out)
        assert f"another run (process {process} on " in line and f"is writing to {out}; wait for its end" in line
        assert [path.name for path in out.iterdir()] == [LOCK_FILE]
    assert m2f_predict(images, "--output", out) == 0
    assert not (out / LOCK_FILE).exists()
    with held_folder(out):
        assert m2f_predict(images, "--output", out, "--dry-run") == 0  # which writes nothing


def test_semantic_labels_are_classes(images, reader, tmp_path):
    assert m2f_predict(images / "2.png", "--output", tmp_path / "out", "--task=semantic") == 0
    labels = np.asarray(Image.open(tmp_path / "out" / "labels" / "2.png"))
    assert np.unique(labels).tolist() == [0, 1, 2] and labels[20, 10] == 0 and labels[20, 26] == 1


def test_nothing_above_the_threshold_is_a_valid_result(images, reader, tmp_path, capsys):
    out = tmp_path / "out"
    assert m2f_predict(images, "--output", out, "--task=instance", "--threshold=0.99") == 0
    assert "3 images" in capsys.readouterr().out
    record = json.loads((out / "predictions.json").read_text())
    assert len(record["images"]) == 3 and record["annotations"] == []
    assert (out / "objects.csv").read_text().count("\n") == 1
    assert not np.asarray(Image.open(out / "labels" / "2.png")).any()
    assert "0.png" in (out / "report.html").read_text(encoding="utf-8")


def test_a_broken_image_is_skipped_and_tried_again(images, reader, tmp_path, capsys):
    out = tmp_path / "out"
    (images / "1.png").write_bytes(b"no image")
    assert m2f_predict(images, "--output", out) == 1
    captured = capsys.readouterr()
    assert captured.err.count("skipped: ") == 1 and f"{images / '1.png'} is no image" in captured.err
    assert "2 images" in captured.out and "1 images have no result" in captured.out
    assert sorted(path.name for path in (out / "overlays").iterdir()) == ["0.png", "2.png"]
    assert "1.png is no image" in (out / "report.html").read_text(encoding="utf-8")
    draw(SIZE, scene(1)).save(images / "1.png")
    reader.shapes.clear()
    assert m2f_predict(images, "--output", out) == 0
    assert len(reader.shapes) == 1 and "2 of 3 images have their result already" in capsys.readouterr().err
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == 3


def test_limit_of_pixels(images, reader, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # which the command sets
    assert m2f_predict(images, "--output", tmp_path / "out", "--max-pixels", 64 * 96 - 2) == 1
    assert "exceeds limit of 6142 pixels" in capsys.readouterr().err
    assert m2f_predict(images, "--output", tmp_path / "out", "--max-pixels", 64 * 96) == 0


def test_second_run_computes_what_is_new(images, reader, tmp_path):
    out = tmp_path / "out"
    m2f_predict(images, "--output", out)
    first = contents(out)
    reader.shapes.clear()
    assert m2f_predict(images, "--output", out) == 0
    assert not reader.shapes and contents(out) == first
    draw(SIZE, scene(3)).save(images / "2.png")  # another image under an old name
    assert m2f_predict(images, "--output", out) == 0
    assert len(reader.shapes) == 1
    assert (out / "objects.csv").read_text().count("2.png") == 4


def test_saved_formats_are_written_of_results_that_are_there(images, reader, tmp_path, capsys):
    out = tmp_path / "out"
    m2f_predict(images, "--output", out)
    reader.shapes.clear()
    saving = (images, "--output", out, "--save=yolo", "--save=coco-rle", "--tolerance=0")
    assert m2f_predict(*saving) == 0 and not reader.shapes
    printed = capsys.readouterr().out
    assert f"saved {out / 'yolo'}: 3 images, 6 segments" in printed and "mean IoU with the masks 1.0000" in printed
    assert sorted(path.name for path in (out / "yolo" / "labels" / "train").iterdir()) == ["0.txt", "1.txt", "2.txt"]
    coco = json.loads((out / "coco-rle" / "instances_train.json").read_text())
    predicted = json.loads((out / "predictions.json").read_text())
    assert [a["segmentation"] for a in coco["annotations"]] == [a["segmentation"] for a in predicted["annotations"]]
    first = contents(out)
    assert m2f_predict(*saving) == 0 and contents(out) == first
    (out / "yolo" / "labels" / "train" / "1.txt").write_text("corrected")
    capsys.readouterr()
    error = error_of(capsys, *saving)
    assert f"{out / 'yolo'} was changed since it was written (labels/train/1.txt); move it away" in error
    assert m2f_predict(*saving, "--overwrite") == 0 and contents(out) == first
    error = error_of(capsys, images, "--output", out, "--save=yolo", "--tolerance=-1")
    assert error.endswith("polygons cannot have a tolerance of -1.0 pixels; give 0 or more")


def test_uncertain_images_come_first(images, reader, tmp_path):
    """Sky has a score of 0.9, a cell 0.8 and a vessel 0.7; a black image has nothing."""
    Image.new("RGB", SIZE[::-1]).save(images / "=1+1.png")
    out = tmp_path / "out"
    assert m2f_predict(images, "--output", out, "--rank=uncertainty") == 0
    rows = list(csv.DictReader((out / "ranking.csv").open(encoding="utf-8")))
    assert [(row["rank"], row["image"]) for row in rows] == [
        ("1", "2.png"),
        ("2", "1.png"),
        ("3", "0.png"),
        ("4", "'=1+1.png"),
    ]
    assert [float(row["uncertainty"]) for row in rows[:3]] == pytest.approx([0.2, 0.15, 0.1], abs=0.01)
    assert rows[3]["uncertainty"] == "" and [row["objects"] for row in rows] == ["3", "2", "1", "0"]


def test_other_settings_need_another_folder(images, reader, tmp_path, capsys):
    out = tmp_path / "out"
    m2f_predict(images, "--output", out)
    capsys.readouterr()
    error = error_of(capsys, images, "--output", out, "--threshold=0.3")
    assert "results of other settings (threshold: None, now 0.3)" in error and "--overwrite" in error
    assert m2f_predict(images / "0.png", "--output", out, "--threshold=0.3", "--overwrite") == 0
    assert [path.name for path in (out / "overlays").iterdir()] == ["0.png"]


def test_equal_names_in_two_folders(tmp_path, reader):
    for name, count in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        draw(SIZE, scene(count)).save(tmp_path / name / "x.png")
    assert m2f_predict(tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out") == 0
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 2
    names = [image["file_name"] for image in json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]]
    assert names == [str(tmp_path / "a" / "x.png"), str(tmp_path / "b" / "x.png")]


def test_list_on_standard_input(images, reader, tmp_path, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{images / '0.png'}\n{images / '2.png'}\n"))
    assert m2f_predict("-", "--output", tmp_path / "out") == 0
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 2


def test_output_in_the_input_folder(images, reader):
    for _ in range(2):  # the second time there are pictures in it
        assert m2f_predict(images, "--output", images / "out") == 0
        assert len(json.loads((images / "out" / "predictions.json").read_text())["images"]) == 3


def test_dry_run_writes_nothing(images, reader, tmp_path, capsys):
    assert m2f_predict(images, "--output", tmp_path / "out", "--dry-run") == 0
    assert "3 of 3 images" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_tiles(tmp_path, reader):
    """A cell across two tiles is one object; see tests/inference/test_segmenter.py for more."""
    draw((64, 160), [Thing(1, 0, 0.8, 8, 40, 48, 120)]).save(tmp_path / "x.png")
    words = (tmp_path / "x.png", "--output", tmp_path / "out", "--task=instance", "--tile=96")
    assert m2f_predict(*words) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "objects.csv").open(encoding="utf-8")))
    assert [(row["left"], row["width"]) for row in rows] == [("40", "80")]
    assert {shape[2:] for shape in reader.shapes} == {(64, 96)}


def test_bad_input_is_one_line(images, checkpoint, tmp_path, capsys):
    words = (images, "--output", tmp_path / "out", "--checkpoint", checkpoint)
    (tmp_path / "empty").mkdir()
    assert "no images found" in error_of(capsys, tmp_path / "empty", *words[1:])
    assert "no such file or folder" in error_of(capsys, tmp_path / "nowhere", *words[1:])
    assert "give --allow-urls" in error_of(capsys, "https://example.org/x.png", *words[1:])
    assert "no checkpoint folder" in error_of(capsys, *words[:3], "--checkpoint", tmp_path / "nowhere")
    assert "at least 32 are needed" in error_of(capsys, *words, "--tile=8")
    assert "must be in [0, 1], got 7.0" in error_of(capsys, *words, "--threshold=7")
    assert not (tmp_path / "out").exists()
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main(["predict", *map(str, words), "--device=gpu"]) == 2
    assert "unknown device 'gpu'" in capsys.readouterr().err


def test_folders_that_cannot_take_results(images, reader, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert "cannot write into" in error_of(capsys, images, "--output", file)
    assert "cannot write into" in error_of(capsys, images, "--output", file / "inner")
    assert "did not write (0.png, 1.png, 2.png)" in error_of(capsys, images, "--output", images)


def test_a_full_disk_ends_the_run(images, reader, tmp_path, capsys, monkeypatch):
    """And is no fault of the image: the next run goes on."""

    def full(path, write):
        if path.parent.name == "overlays":
            raise OSError(28, "No space left on device")
        return whole(path, write)

    from m2f.inference.prediction_folder import write_whole as whole

    monkeypatch.setattr("m2f.inference.prediction_folder.write_whole", full)
    assert "No space left" in error_of(capsys, images, "--output", tmp_path / "out")
    monkeypatch.undo()


# Runs the command in a process of its own, with the model that reads scenes; each image takes 0.3 s.
SLOW_COMMAND = """
import sys, time
sys.path.insert(0, "tests")
from object_reader import object_reader
import m2f.commands.predict as predict
from m2f.cli import main
from m2f.inference.segmenter import Segmenter
model = object_reader("panoptic")
read = model.forward
def slow(**inputs):
    time.sleep(0.3)
    return read(**inputs)
model.forward = slow
predict.load_segmenter = lambda args, device: Segmenter(model, model.processor, args.task)
sys.exit(main(["predict", *sys.argv[1:], "--checkpoint=reader", "--device=cpu"]))
"""


def start(*words, **environment) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW_COMMAND, *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@pytest.fixture
def many_images(tmp_path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(12):
        draw(SIZE, scene(number % 5)).save(folder / f"{number:02d}.png")
    return folder


def test_kill_loses_nothing_and_the_next_run_completes(many_images, reader, tmp_path):
    out, records = tmp_path / "out", tmp_path / "out" / "records"
    process = start(many_images, "--output", out, "--save=cvat")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(records.glob("[0-9]*.json"))) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = [path for path in records.glob("[0-9]*.json")]
    assert 3 <= len(done) < 12 and not (out / "predictions.json").exists()
    for path in done:  # each is whole, with its pictures
        assert json.loads(path.read_text())["segments"]
        for folder in ("overlays", "labels"):
            Image.open(out / folder / f"{path.stem}.png").load()
    changed = {path: path.stat().st_mtime_ns for path in done}
    (out / ".m2f-unfinished-1" / "images").mkdir(parents=True)  # as of a run that is killed while it saves
    assert m2f_predict(many_images, "--output", out, "--save=cvat") == 0
    assert {path: path.stat().st_mtime_ns for path in done} == changed
    assert sum(shape[0] for shape in reader.shapes) == 12 - len(done)
    assert m2f_predict(many_images, "--output", tmp_path / "other", "--save=cvat") == 0
    assert contents(out) == contents(tmp_path / "other") and "cvat/annotations.xml" in contents(out)


def test_processes_share_the_images(many_images, reader, tmp_path):
    (many_images / "05.png").write_bytes(b"no image")
    out = tmp_path / "out"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        start(many_images, "--output", out, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [1, 0], outputs
    assert "11 images" in outputs[0][0] and not outputs[1][0]
    assert outputs[1][1].count("skipped: ") == 1 and "skipped" not in outputs[0][1]  # 05 is the second one's
    assert m2f_predict(many_images, "--output", tmp_path / "other") == 1
    assert contents(out) == contents(tmp_path / "other")


def test_a_real_checkpoint(images, checkpoint, tmp_path):
    """From a folder of weights to all files, in each task."""
    for task in ("panoptic", "instance", "semantic"):
        out = tmp_path / task
        words = ("--threshold=0",) if task == "instance" else ()
        assert m2f_predict(images, "--output", out, "--checkpoint", checkpoint, "--task", task, *words) == 0
        assert len(json.loads((out / "predictions.json").read_text())["annotations"]) > 0
    # Weights that were trained further are other settings.
    os.utime(checkpoint / "model.safetensors", ns=(0, time.time_ns() + 10**9))
    shutil.rmtree(tmp_path / "panoptic" / "overlays")
    assert m2f_predict(images, "--output", tmp_path / "panoptic", "--checkpoint", checkpoint, "--task=panoptic") == 2


def test_the_white_level_reaches_the_images_and_other_results_are_not_mixed(
    images, reader, tmp_path, capsys, monkeypatch
):
    """8-bit values in 16 bits are what they are in 8; with a white level of their own they are dark."""
    for file in images.iterdir():
        Image.fromarray(np.asarray(Image.open(file).convert("L")).astype(np.uint16)).save(file)
    seen = []

    def load(args, device):
        model = reader
        seen.append(args.white_level)
        return Segmenter(model, model.processor, args.task, white_level=args.white_level)

    monkeypatch.setattr("m2f.commands.predict.load_segmenter", load)
    read = []
    original = Segmenter._result
    monkeypatch.setattr(
        Segmenter, "_result", lambda self, view, computed: (read.append(view.image), original(self, view, computed))[1]
    )
    out = tmp_path / "out"
    assert m2f_predict(images, "--output", out) == 0
    brightest = max(np.asarray(image).max() for image in read)
    read.clear()
    capsys.readouterr()
    assert "white_level" in error_of(capsys, images, "--output", out, "--white-level=510")
    assert m2f_predict(images, "--output", out, "--white-level=510", "--overwrite") == 0
    assert abs(max(np.asarray(image).max() for image in read) - brightest / 2) <= 1
    assert seen == [None, 510, 510]
