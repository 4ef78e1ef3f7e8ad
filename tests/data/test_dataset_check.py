"""Every kind of finding on datasets made for it; the expected ones follow from how these are drawn."""

import json

import numpy as np
import pytest
from checked_samples import check, found, image_with
from fake_reader import ALL, LEFT, RIGHT, FakeReader, good, sample
from PIL import Image

from m2f.data.dataset_check import check_dataset, check_readers
from m2f.data.segment_map import Sample, SegmentMap


def test_copies_within_and_between_splits():
    train = FakeReader([good("a", 1), good("b", 2), good("b again", 2), good("c", 3)])
    val = FakeReader([good("d", 1), sample("e", [{0: LEFT}], [1], 3)], split="val")
    report = check_readers({"train": train, "val": val}, workers=1)
    assert [(f.kind, f.split, f.name, f.message) for f in report.findings if "image" in f.kind] == [
        ("shared image", "train", "a", "also val: d"),
        ("shared image", "train", "c", "also val: e, with other labels"),
        ("repeated image", "train", "b", "also train: b again"),
    ]
    assert report.may_train()
    assert not report.may_train(strict=True)


def test_equal_bytes_of_another_shape_are_no_copy():
    images = [Image.new("RGB", size) for size in ((8, 6), (6, 8))]
    segments = [SegmentMap(np.zeros((1, h, w), np.int32), np.array([0])) for h, w in ((6, 8), (8, 6))]
    samples = [Sample(*pair, name) for *pair, name in zip(images, segments, "ab", strict=True)]
    assert not check(*samples).findings


def test_classes_without_a_segment():
    only_dogs = sample("b", [{0: LEFT}], [1])
    readers = {"train": FakeReader([only_dogs]), "val": FakeReader([good("c")], split="val")}
    assert [(f.kind, f.split, f.message) for f in check_readers(readers).findings] == [
        ("unused class", "train", "class 0 'cat'")
    ]
    readers = {"train": FakeReader([good("c")]), "val": FakeReader([only_dogs], split="val")}
    assert [(f.kind, f.split, f.message) for f in check_readers(readers).findings] == [
        ("unmeasured class", "val", "class 0 'cat'")
    ]


def test_splits_without_images_or_segments():
    empty = sample("x", [{}], [])
    readers = {"train": FakeReader([empty]), "val": FakeReader([empty], split="val"), "test": FakeReader([])}
    kinds = [(f.kind, f.split) for f in check_readers(readers).findings]
    assert kinds == [
        ("empty split", "test"),
        ("nothing to learn", "train"),
        ("shared image", "train"),
        ("unlabelled split", "val"),
        ("empty image", "train"),
        ("empty image", "val"),
    ]


@pytest.mark.parametrize(
    ("names", "things", "message"),
    [
        ({0: "dog", 1: "cat"}, None, "class 0 is 'dog' here and 'cat' in 'train'"),
        ({0: "cat", 1: "dog", 2: "cow"}, None, "class 2 is 'cow' here and None in 'train'"),
        ({0: "cat", 1: "dog"}, [0], "things are [0] here and None in 'train'"),
    ],
)
def test_class_tables_of_splits_must_agree(names, things, message):
    val = FakeReader([good("v")], names, "val", things)
    report = check_readers({"train": FakeReader([good("t")]), "val": val})
    errors = [(f.kind, f.split) for f in report.findings if f.severity == "error"]
    assert errors == [("class table", "val")]
    assert report.findings[0].message.startswith(message)


def test_class_table_of_the_training_split():
    gaps = check_readers({"train": FakeReader([good("t")], {0: "cat", 1: "dog", 3: "dog"})})
    assert [(f.kind, f.message) for f in gaps.findings] == [
        ("class table", "class ids are [0, 1, 3]; 0, 1, 2, ... without a gap are needed"),
        ("class name", "classes [1, 3] are all called 'dog'"),
        ("unused class", "class 3 'dog'"),
    ]


def test_names_that_differ_in_capitals_or_spaces_alone():
    reader = FakeReader([good("t")], {0: "red dog", 1: "Red  dog ", 2: "cat"})
    found = [f.message for f in check_readers({"train": reader}).findings if f.kind == "class name"]
    assert found == ["['red dog', 'Red  dog '] differ in capitals or spaces alone"]


class UnnamedReader(FakeReader):
    """Cannot list its classes, as a folder of label maps without names of which one is broken."""

    @property
    def id2label(self):
        raise ValueError("cannot decode 7.png")

    @id2label.setter
    def id2label(self, names):
        pass


def test_classes_that_cannot_be_listed_do_not_hide_the_rest():
    report = check_readers({"train": UnnamedReader([good("a"), image_with("tiny segment")])})
    assert [(f.kind, f.message) for f in report.findings] == [
        ("class table", "the classes cannot be listed: cannot decode 7.png"),
        ("tiny segment", "'class 1' has 3 pixels"),
    ]
    assert report.id2label == {0: "0", 1: "1"}


@pytest.fixture
def coco(tmp_path):
    """Writes a split with one image and one cat, in COCO's format."""

    def write(name: str, **changes):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{name}.png")
        segmentation = [[0, 0, 4, 0, 4, 6, 0, 6]]
        content = {
            "images": [{"id": 1, "file_name": f"{name}.png", "height": 6, "width": 8}],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "segmentation": segmentation}],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content | changes))
        return tmp_path

    return write


def test_dataset_on_disk_with_a_broken_split(coco):
    coco("train")
    folder = coco("val", categories=[{"id": 1}])
    report = check_dataset(folder)
    assert found(report) == [("unopened split", "val", "", None)]
    assert "'name'" in report.findings[0].message
    assert report.splits["train"].class_pixels == {0: 24}


def test_all_splits_must_have_one_to_train_on(coco):
    folder = coco("valid")
    report = check_dataset(folder)
    assert [(f.kind, f.message) for f in report.findings] == [
        ("no training split", "the splits are called 'val'; training needs 'train'")
    ]
    assert not check_dataset(folder, ["val"]).findings
    assert not check_dataset(folder / "valid.json").findings
    assert "no training split" not in check_dataset(coco("training")).by_kind()


def test_option_goes_to_the_reader_and_an_unknown_one_is_a_finding(coco):
    folder = coco("train")
    assert not check_dataset(folder, options={"ignore_unknown": False}).findings
    report = check_dataset(folder, options={"ignore_index": 0})
    assert found(report) == [("unopened split", "train", "", None)]
    assert "ignore_index" in report.findings[0].message


def test_folder_of_no_known_format_is_a_finding(tmp_path):
    report = check_dataset(tmp_path)
    assert (found(report), report.may_train()) == ([("unopened split", "", "", None)], False)
    assert "no dataset of a known format" in report.findings[0].message


def test_path_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder: .*nowhere"):
        check_dataset(tmp_path / "nowhere")


def test_what_a_reader_says_of_its_split_is_a_finding():
    reader = FakeReader([good("a")])
    reader.remarks = [("crowd region", "1 of 4"), ("class of crowd regions", "class 1"), ("left out", "2 of 4")]
    report = check_readers({"train": reader})
    assert [(f.severity, f.kind, f.split, f.name, f.message) for f in report.findings] == [
        ("error", "class of crowd regions", "train", "", "class 1"),
        ("warning", "crowd region", "train", "", "1 of 4"),
        ("warning", "left out", "train", "", "2 of 4"),
    ]
    reader.remarks = [("only crowd regions", "4 of 4")]
    assert not check_readers({"train": reader}).may_train()


@pytest.mark.parametrize(
    ("second", "is_found"),
    [({0: RIGHT, -2: LEFT}, True), ({0: ALL}, False), ({1: RIGHT, -2: LEFT}, False), ({0: LEFT, 2: RIGHT}, False)],
)
def test_masks_of_0_and_255_beside_masks_of_0_and_1(second, is_found):
    """With names, so that the reader itself does not look at the values of all."""
    ids = sorted(label for label in second if label >= 0)
    layer = {label if label < 0 else ids.index(label): place for label, place in second.items()}
    reader = FakeReader([good("a"), sample("b", [layer], ids)], {0: "sky", 1: "dog", 2: "cat"})
    reader.task = "semantic"
    found = [f for f in check_readers({"train": reader}).findings if f.kind == "mixed masks"]
    assert [f.name for f in found] == ["b"] * is_found
