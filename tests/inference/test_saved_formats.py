"""Folders of formats that may not be replaced, and images that are not there; tests/output_formats has the formats."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2f.inference.detection import Box, Detection
from m2f.inference.image_sources import ImageSource
from m2f.inference.prediction_folder import PredictionFolder
from m2f.inference.saved_formats import check_formats, save_formats
from m2f.inference.segmentation_result import SegmentationResult
from m2f.output_formats.format_folder import RECORD, remove_written

IMAGE = Image.new("RGB", (6, 4))


def predicted(path: Path, *locations: str):
    """One object in each image."""
    folder = PredictionFolder(path / "out", {})
    folder.begin()
    entries = folder.entries([ImageSource(location, Path(location).name.partition("?")[0]) for location in locations])
    for entry in entries:
        objects = [Detection(0, 0.5, Box(1, 1, 3, 3), np.ones((2, 2), bool))]
        folder.write(entry, SegmentationResult.from_detections(IMAGE, objects, {0: "a"}))
    return folder, entries


def saved(folder, entries, *names: str) -> list[str]:
    return save_formats(folder, entries, names, {0: "a"}, [0], 0.0)


def test_what_others_wrote_or_changed_stays(tmp_path):
    IMAGE.save(tmp_path / "x.png")
    folder, entries = predicted(tmp_path, str(tmp_path / "x.png"))
    place = folder.path / "labelme"
    place.mkdir()
    (place / "mine.txt").write_text("mine")
    for check in (lambda: check_formats(folder, ["labelme"]), lambda: saved(folder, entries, "labelme")):
        with pytest.raises(ValueError, match="labelme was not written by m2f predict --save; move it away"):
            check()
    remove_written(place)
    assert (place / "mine.txt").read_text() == "mine"
    (place / "mine.txt").unlink()
    place.rmdir()
    saved(folder, entries, "labelme")
    lines = saved(folder, entries, "labelme", "labelme")  # nothing was changed
    assert len([line for line in lines if line.startswith("saved")]) == 1
    assert not list(folder.path.glob(".m2f-unfinished*"))
    (place / "new.json").write_text("{}")
    with pytest.raises(ValueError, match=r"was changed since it was written \(new.json\)"):
        check_formats(folder, ["labelme"])
    (place / "new.json").unlink()
    (place / "x.json").unlink()
    with pytest.raises(ValueError, match=r"was changed since it was written \(x.json\)"):
        check_formats(folder, ["labelme"])
    remove_written(place)
    assert not place.exists()


def test_a_format_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    IMAGE.save(tmp_path / "x.png")
    folder, entries = predicted(tmp_path, str(tmp_path / "x.png"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("m2f.inference.saved_formats.link_image", full)
    with pytest.raises(OSError, match="No space left"):
        saved(folder, entries, "cvat")
    assert not [path for path in folder.path.iterdir() if "cvat" in path.name or "unfinished" in path.name]


def test_images_of_addresses_and_equal_names(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        IMAGE.save(tmp_path / name / "x y#.png")
    locations = [str(tmp_path / name / "x y#.png") for name in ("a", "b")]
    folder, entries = predicted(tmp_path, *locations, "https://user:secret@example.org/z.png?token=1")
    lines = saved(folder, entries, "coco-rle")
    assert lines[-1] == "  images from addresses, which are not beside their labels: 1"
    content = (folder.path / "coco-rle" / "instances_train.json").read_text()
    names = [image["file_name"] for image in json.loads(content)["images"]]
    assert len(set(names)) == 3 and all(name.startswith("train/x y_-") for name in names[:2])
    assert "secret" not in content and "token" not in content
    record = json.loads((folder.path / "coco-rle" / RECORD).read_text())
    assert record["images"] == sorted(names[:2]) and list(record["files"]) == ["instances_train.json"]
    first = folder.path / "coco-rle" / names[0]
    assert first.samefile(locations[0])  # a link, which takes no space


def test_names_that_become_the_same_stay_two(tmp_path):
    for name in ("x#.png", "x_.png"):
        IMAGE.save(tmp_path / name)
    folder, entries = predicted(tmp_path, str(tmp_path / "x#.png"), str(tmp_path / "x_.png"))
    saved(folder, entries, "labelme")
    assert len(list((folder.path / "labelme").glob("x_*.json"))) == 2
