"""Every kind of finding on datasets made for it; the expected ones follow from how these are drawn."""

import json
import os
import warnings

import numpy as np
import pytest
from fake_reader import ALL, LEFT, RIGHT, FakeReader, good, sample
from PIL import Image

from m2f.data.check_report import CheckReport
from m2f.data.dataset_check import check_dataset, check_readers
from m2f.data.image_inspection import KINDS
from m2f.data.segment_map import Sample, SegmentMap


def found(report: CheckReport) -> list[tuple]:
    return [(f.kind, f.split, f.name, f.segment) for f in report.findings]


def check(*samples, **options) -> CheckReport:
    """One training split, with a good image before, so that all classes are used."""
    return check_readers({"train": FakeReader([good("good"), *samples])}, workers=1, **options)


def test_good_data_has_no_finding_and_its_numbers():
    samples = [good("a"), sample("b", [{0: LEFT, -2: RIGHT}], [1]), sample("c", [{}], [])]
    report = check_readers({"train": FakeReader(samples[:2]), "val": FakeReader([good("d")])}, workers=1)
    assert (report.findings, report.may_train(strict=True)) == ([], True)
    summary = report.splits["train"]
    assert (summary.images, summary.readable, summary.segments, summary.segments_per_image) == (2, 2, 3, (1, 1.5, 2))
    assert (summary.sizes, summary.ignored) == (((6, 8), (6, 8)), 24 / 96)
    assert (summary.class_segments, summary.class_images) == ({0: 1, 1: 2}, {0: 1, 1: 2})
    assert summary.class_pixels == {0: 24, 1: 48}


CORNER = np.s_[2:3, 5:8]  # 3 pixels

IMAGE_CASES = {
    "unknown class": ([{0: LEFT}], [2], 0, "class 2 is none of the 2 classes 0 to 1"),
    "empty segment": ([{0: LEFT}], [0, 1], 1, "'dog' has no pixel"),
    "tiny segment": ([{0: LEFT, 1: CORNER}], [0, 1], 1, "'dog' has 3 pixels"),
    "empty image": ([{}], [], None, "no segment"),
    "ignored image": ([{-2: ALL}], [], None, "no pixel has a label that counts"),
    "repeated segment": ([{0: LEFT}, {1: LEFT}], [0, 1], 1, "'dog' has the pixels of segment 0, 'cat'"),
    "covered segment": ([{0: ALL}, {1: RIGHT}], [0, 1], 1, "'dog', 24 pixels"),
}


def image_with(kind: str) -> Sample:
    return sample(kind, *IMAGE_CASES[kind][:2])


@pytest.mark.parametrize("kind", IMAGE_CASES)
def test_findings_about_one_image(kind):
    segment, message = IMAGE_CASES[kind][2:]
    report = check(image_with(kind))
    assert found(report) == [(kind, "train", kind, segment)]
    assert report.findings[0].message == message
    assert report.may_train() == (kind != "unknown class")


def test_segment_has_its_box():
    report = check(image_with("tiny segment"), image_with("empty segment"))
    assert {f.kind: f.box for f in report.findings} == {"tiny segment": (5, 2, 8, 3), "empty segment": None}


class CocoLikeReader(FakeReader):
    def annotation_ids(self, index):
        return [100 * index + i for i in range(len(self.samples[index].segments.class_ids))]


def test_annotation_ids_where_the_reader_has_them():
    report = check_readers({"train": CocoLikeReader([good("a"), image_with("tiny segment")])})
    assert [(f.segment, f.annotation) for f in report.findings] == [(1, 101)]


def test_limit_of_tiny_segments():
    assert not check(image_with("tiny segment"), tiny_pixels=3).findings
    assert len(check(tiny_pixels=25).findings) == 2  # both halves have 24


def test_segments_that_stick_out_are_not_covered():
    assert not check(sample("x", [{0: LEFT}, {1: np.s_[:, 3:]}], [0, 1])).findings
    inside = check(sample("x", [{0: LEFT}, {1: np.s_[:, :5]}], [0, 1]))
    assert found(inside) == [("covered segment", "train", "x", 0)]


def test_two_that_cover_a_third_together():
    halves_over_all = sample("x", [{0: LEFT, 1: RIGHT}, {2: ALL}], [0, 1, 1])
    # The halves lie under the whole, and the whole under both halves: none is seen alone.
    assert [f[:1] + f[3:] for f in found(check(halves_over_all))] == [("covered segment", n) for n in range(3)]


def test_what_cannot_be_read_is_reported_and_the_rest_is_read(tmp_path):
    for name in ("labels.png", "fine.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes((tmp_path / "fine.png").read_bytes()[:-30])
    samples = [FileNotFoundError("gone"), OSError("broken"), ValueError("annotation 7: no\n polygon"), good("fine")]
    paths = [tmp_path / f"{name}.png" for name in ("missing", "broken", "labels", "fine")]
    report = check_readers({"train": FakeReader(samples, paths=paths)}, workers=1)
    assert found(report) == [
        ("missing image", "train", "0.png", None),
        ("broken image", "train", "1.png", None),
        ("bad labels", "train", "2.png", None),
    ]
    assert [f.message for f in report.findings] == ["gone", "broken", "annotation 7: no polygon"]
    assert (report.splits["train"].readable, report.splits["train"].images, report.may_train()) == (1, 4, False)


def test_a_bug_in_a_reader_is_not_hidden():
    with pytest.raises(KeyError, match="bug"):
        check(KeyError("bug"))


@pytest.mark.parametrize(
    ("ids", "classes", "message"),
    [
        (np.zeros((1, 8, 6)), [0], "the labels are 8 x 6 (height x width), the image 6 x 8"),
        (np.full((1, 6, 8), 2), [0, 1], "the label map has a segment 2, but there are classes for 2 segments only"),
    ],
)
def test_labels_that_do_not_fit_their_image(ids, classes, message):
    segments = SegmentMap(ids.astype(np.int32), np.array(classes, np.int64))
    report = check(Sample(Image.new("RGB", (8, 6)), segments, "x"))
    assert (found(report), report.findings[0].message) == ([("bad labels", "train", "x", None)], message)


class WarningReader(FakeReader):
    def __getitem__(self, index):
        warnings.warn("Corrupt EXIF data", UserWarning, stacklevel=2)
        warnings.warn("old function", DeprecationWarning, stacklevel=2)
        return super().__getitem__(index)


def test_warnings_of_the_decoder_are_notes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none comes out
        report = check_readers({"train": WarningReader([good("a")])}, workers=1)
    assert [(f.kind, f.name, f.message) for f in report.findings] == [("decoder warning", "a", "Corrupt EXIF data")]


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


class DeadlyReader(FakeReader):
    """The process that reads item 40 dies, as in a segmentation fault."""

    def __getitem__(self, index):
        if index == 40:
            os._exit(1)
        return super().__getitem__(index)


def many(count: int = 100) -> list:
    return [good(f"{i:03d}", seed=i) for i in range(count - 1)] + [image_with("tiny segment")]


def test_worker_processes_give_the_same_report():
    alone, together = (check_readers({"train": FakeReader(many())}, workers=workers) for workers in (1, 3))
    assert alone.records == together.records
    assert alone.findings == together.findings
    assert alone.splits == together.splits


def test_image_that_kills_its_reader_is_reported_and_the_rest_is_read():
    report = check_readers({"train": DeadlyReader(many())}, workers=2)
    assert found(report) == [("dead worker", "train", "040", None), ("tiny segment", "train", "tiny segment", 1)]
    assert [record.index for record in report.records] == list(range(100))
    assert report.splits["train"].readable == 99


def test_findings_come_worst_first_and_by_kind():
    samples = [image_with(kind) for kind in reversed(IMAGE_CASES)]
    report = check(*samples)
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert list(report.by_kind()) == [kind for kind in KINDS if kind in report.by_kind()]
    assert sum(map(len, report.by_kind().values())) == len(report.findings)


def test_report_as_json():
    report = check(image_with("unknown class"))
    content = json.loads(json.dumps(report.to_dict()))
    assert (content["may_train"], content["counts"]) == (False, {"error": 1, "warning": 0, "note": 0})
    assert content["findings"] == [
        {
            "severity": "error",
            "kind": "unknown class",
            "split": "train",
            "name": "unknown class",
            "segment": 0,
            "annotation": None,
            "message": "class 2 is none of the 2 classes 0 to 1",
            "box": [0, 0, 4, 6],
        }
    ]
    assert content["splits"]["train"]["class_segments"] == {"0": 1, "1": 1, "2": 1}


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
