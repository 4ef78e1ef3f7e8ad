"""Datasets of every format, written as COCO and read back."""

import json
from pathlib import Path

import numpy as np
import pytest
from fake_reader import ALL, LEFT, RIGHT, FakeReader, good, sample
from PIL import Image
from pycocotools.coco import COCO
from random_segments import random_segments
from small_datasets import MAKERS

from m2f.data.coco_entries import instance_entries, panoptic_entries
from m2f.data.coco_masks import decode_strip
from m2f.data.coco_writing import check_target, write_coco
from m2f.data.dataset_formats import list_splits, open_dataset
from m2f.data.segment_map import Sample, SegmentMap
from m2f.data.segmentation_dataset import thing_labels

NUCLEI = Path(__file__).parents[2] / "examples" / "nuclei"


def opened(path, format="auto", **options) -> dict:
    return {split: open_dataset(path, split, format, **options) for split in list_splits(path, format)}


def assert_same(readers: dict, folder: Path):
    """What a reader of the folder gives is what the readers give, to the pixel."""
    again = opened(folder)
    assert list(again) == ["train", "val"]
    for first, second in zip(readers.values(), again.values(), strict=True):
        assert (second.id2label, thing_labels(second)) == (first.id2label, thing_labels(first))
        assert len(second) == len(first)
        for index in range(len(first)):
            one, other = first[index], second[index]
            np.testing.assert_array_equal(np.asarray(one.image), np.asarray(other.image))
            np.testing.assert_array_equal(one.segments.class_ids, other.segments.class_ids)
            np.testing.assert_array_equal(one.segments.masks(), other.segments.masks())
            np.testing.assert_array_equal(one.segments.ignored(), other.segments.ignored())


@pytest.mark.parametrize("format", MAKERS)
def test_every_format_comes_back_as_it_was(format, tmp_path):
    (tmp_path / "data").mkdir()
    MAKERS[format](tmp_path / "data")
    readers = opened(tmp_path / "data", format if format == "instance-maps" else "auto")
    written = write_coco(readers, tmp_path / "out")
    assert [(split.name, split.images, split.segments, split.empty) for split in written] == [
        ("train", 1, 1, 0),
        ("val", 1, 1, 0),
    ]
    assert_same(readers, tmp_path / "out")
    task = "instance" if next(iter(readers.values())).task == "instance" else "panoptic"
    assert open_dataset(tmp_path / "out").format == f"coco-{task}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]  # nothing is left of the work


def test_bundled_images_come_back_and_pycocotools_reads_them(tmp_path, capsys):
    write_coco(opened(NUCLEI), tmp_path / "out")
    assert_same(opened(NUCLEI), tmp_path / "out")
    ours, theirs = COCO(str(tmp_path / "out" / "instances_val.json")), COCO(str(NUCLEI / "val.json"))
    assert len(ours.anns) == len(theirs.anns) == 201
    for one, other in zip(ours.dataset["annotations"], theirs.dataset["annotations"], strict=True):
        mask = theirs.annToMask(other)
        np.testing.assert_array_equal(ours.annToMask(one), mask)
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert (one["area"], one["bbox"], one["category_id"]) == (mask.sum(), box, other["category_id"])


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_of_random_segments(seed):
    """Against the masks; the order of segments, and one crowd region of the ignored pixels."""
    segments = random_segments(seed)
    entries = instance_entries(segments, [5, 6, 7])
    masks = [mask for mask in segments.masks() if mask.any()]
    crowds = int(segments.ignored().any())
    masks += [segments.ignored()] * crowds
    for entry, mask in zip(entries, masks, strict=True):
        strip, left = decode_strip(entry["segmentation"], *segments.size)
        whole = np.zeros(segments.size, np.uint8)
        whole[:, left : left + strip.shape[1]] = strip
        np.testing.assert_array_equal(whole, mask)
    assert [entry["iscrowd"] for entry in entries] == [0] * (len(entries) - crowds) + [1] * crowds


def test_crowds_and_segments_without_a_pixel(tmp_path):
    """Crowds come back ignored; what has no pixel is left out, and counted."""
    reader = FakeReader([sample("a", [{-2: LEFT, 0: np.s_[:2, 4:]}, {2: np.s_[1:3, 4:]}], [0, 1, 1]), good("b")])
    (written,) = write_coco({"train": reader}, tmp_path / "out")
    assert (written.images, written.segments, written.empty, written.crowds) == (2, 4, 1, 1)
    segments = open_dataset(tmp_path / "out")[0].segments
    assert segments.class_ids.tolist() == [0, 1]
    np.testing.assert_array_equal(segments.masks(), reader[0].segments.masks()[[0, 2]])
    np.testing.assert_array_equal(segments.ignored(), reader[0].segments.ignored())
    annotations = json.loads((tmp_path / "out" / "instances_train.json").read_text())["annotations"]
    assert [entry["id"] for entry in annotations] == [1, 2, 3, 4, 5]


def test_background_of_semantic_labels_is_counted(tmp_path):
    reader = FakeReader([sample("a", [{0: LEFT}], [1]), good("b")], thing_label_ids=[1])
    reader.task = "semantic"
    (written,) = write_coco({"train": reader}, tmp_path / "out")
    assert (written.background, written.crowds) == (1, 0)
    segments = open_dataset(tmp_path / "out")[0].segments
    np.testing.assert_array_equal(segments.ignored(), reader[0].segments.ids[0] == -1)


def test_what_panoptic_cannot_say_is_refused(tmp_path):
    overlap = sample("a", [{0: ALL}, {1: RIGHT}], [0, 1]).segments
    with pytest.raises(ValueError, match="'x' has segments that overlap"):
        panoptic_entries(overlap, [1, 2], "x")
    many = SegmentMap(np.arange(70_000, dtype=np.int32).reshape(1, 1, -1), np.zeros(70_000, np.int64))
    colours, infos = panoptic_entries(many, [1], "x")
    np.testing.assert_array_equal(colours.astype(int) @ [1, 256, 65536], np.arange(1, 70_001)[None])
    assert infos[-1] == {"id": 70_000, "category_id": 1, "area": 1, "bbox": [69_999, 0, 1, 1], "iscrowd": 0}


def test_names_never_leave_the_folder(tmp_path):
    names = ["../../x.png", "/etc/y.png", "a\\..\\b.png", "e\x1b[31m.png", "..", "k.png", "K.png"]
    samples = [Sample(Image.new("RGB", (8, 6)), good("a").segments, name) for name in names]
    write_coco({"../train": FakeReader(samples), "v\x1b": FakeReader(samples[:4])}, tmp_path / "out")
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert all(name.startswith("out/") and name.isprintable() for name in files)
    entries = json.loads((tmp_path / "out" / "instances_train.json").read_text())["images"]
    assert [entry["file_name"] for entry in entries] == [
        "train/0/x.png.png",
        "train/1/etc/y.png.png",
        "train/2/a/b.png.png",
        "train/3/e__31m.png.png",
        "train/4/image 4.png",
        "train/5/k.png.png",
        "train/6/K.png.png",
    ]
    assert len(opened(tmp_path / "out")["instances_v_"]) == 4


def test_images_are_links_or_copies(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    MAKERS["coco-instance"](tmp_path / "data")
    readers = {"val": open_dataset(tmp_path / "data", "val")}
    source = readers["val"].image_path(0)
    name = f"val/{readers['val'].name_of(0)}"
    write_coco(readers, tmp_path / "linked")
    write_coco(readers, tmp_path / "copied", copy_images=True)
    monkeypatch.setattr("os.link", lambda *paths: (_ for _ in ()).throw(OSError("no links here")))
    write_coco(readers, tmp_path / "fallen_back")
    inodes = [(tmp_path / folder / name).stat().st_ino for folder in ("copied", "fallen_back")]
    assert source.stat().st_ino not in inodes
    assert (tmp_path / "linked" / name).stat().st_ino == source.stat().st_ino
    for folder in ("linked", "copied", "fallen_back"):
        assert (tmp_path / folder / name).read_bytes() == source.read_bytes()
        assert not (tmp_path / folder / name).is_symlink()


def test_an_existing_folder(tmp_path):
    out, readers = tmp_path / "out", {"train": FakeReader([good("a")])}
    out.mkdir()
    write_coco(readers, out)  # an empty one is taken
    with pytest.raises(FileExistsError, match="written earlier; choose another folder, or --overwrite"):
        write_coco(readers, out)
    (out / "old").write_text("")
    write_coco(readers, out, overwrite=True)
    assert not (out / "old").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.txt").write_text("")
    for target in (mine, mine / "a.txt"):
        with pytest.raises(FileExistsError, match="exists and is not an empty folder"):
            write_coco(readers, target, overwrite=True)
    for target in (out, tmp_path):
        with pytest.raises(ValueError, match="has the data that are read"):
            check_target(target, True, str(out))


def test_nothing_is_there_before_all_is(tmp_path):
    broken = FakeReader([good("a"), ValueError("annotation 7: broken")])
    with pytest.raises(ValueError, match="annotation 7"):
        write_coco({"train": broken}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    write_coco({"train": broken}, tmp_path / "out", {"train": [0]})
    assert len(open_dataset(tmp_path / "out")) == 1


def test_splits_that_would_share_their_name(tmp_path):
    with pytest.raises(ValueError, match="the splits 'val', 'valid' would all be called 'val'; name one with --split"):
        write_coco({"val": FakeReader([good("a")]), "valid": FakeReader([good("a")])}, tmp_path / "out")
