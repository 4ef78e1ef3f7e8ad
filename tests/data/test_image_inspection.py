"""Every kind of finding about one image, on images made for it; the expected ones follow from how these are drawn."""

import dataclasses
import warnings

import numpy as np
import pytest
from checked_samples import IMAGE_CASES, check, found, image_with
from fake_reader import ALL, LEFT, RIGHT, FakeReader, good, sample
from PIL import Image
from random_segments import random_segments

from m2f.data.dataset_check import check_readers
from m2f.data.image_inspection import inspect_image
from m2f.data.segment_map import Sample, SegmentMap


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


def test_pages_that_are_not_read():
    paged = dataclasses.replace(good("a"), pages=3)
    report = check_readers({"train": FakeReader([paged])})
    assert [(f.kind, f.name, f.message, f.severity) for f in report.findings] == [
        ("several pages", "a", "the first of 3 pages or frames is read", "warning")
    ]


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


def plain_overlap_findings(segments: SegmentMap) -> list[tuple]:
    """(kind, segment, box) from a mask for each segment, each compared with all others."""
    masks, found = segments.masks() > 0, []
    for number, mask in enumerate(masks):
        others = [other for i, other in enumerate(masks) if i != number]
        if mask.any() and not (mask & ~np.logical_or.reduce([np.zeros_like(mask), *others])).any():
            twins = [i for i, other in enumerate(masks) if i != number and np.array_equal(other, mask)]
            rows, columns = np.nonzero(mask)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            if not twins:
                found.append(("covered segment", number, box, None))
            elif min(twins) < number:
                found.append(("repeated segment", number, box, min(twins)))
    return sorted(found)


def test_overlaps_are_what_a_comparison_of_all_masks_finds():
    kinds = set()
    for seed in range(60):
        segments = random_segments(seed)
        sample = Sample(Image.new("RGB", segments.size[::-1]), segments, "x")
        findings = inspect_image(FakeReader([sample]), "train", 0, dict.fromkeys(range(3), "a"), 0).findings
        found = sorted(
            (f.kind, f.segment, f.box, int(f.message.split()[6].rstrip(",")) if f.kind == "repeated segment" else None)
            for f in findings
            if f.kind in ("covered segment", "repeated segment")
        )
        assert found == plain_overlap_findings(segments), seed
        kinds |= {kind for kind, *_ in found}
    assert kinds == {"covered segment", "repeated segment"}
