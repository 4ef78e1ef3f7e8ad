"""Samples in which a check finds something."""

import numpy as np
from fake_reader import ALL, LEFT, RIGHT, FakeReader, good, sample

from m2f.data.check_report import CheckReport
from m2f.data.dataset_check import check_readers
from m2f.data.segment_map import Sample


def found(report: CheckReport) -> list[tuple]:
    return [(f.kind, f.split, f.name, f.segment) for f in report.findings]


def check(*samples, **options) -> CheckReport:
    """One training split, with a good image before, so that all classes are used."""
    return check_readers({"train": FakeReader([good("good"), *samples])}, workers=1, **options)


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
