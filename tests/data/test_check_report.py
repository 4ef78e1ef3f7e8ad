"""What a check reports, and in which order; the expected numbers follow from how the images are drawn."""

import json

from checked_samples import IMAGE_CASES, check, image_with
from fake_reader import LEFT, RIGHT, FakeReader, good, sample

from m2f.data.dataset_check import check_readers
from m2f.data.image_inspection import KINDS


def test_good_data_has_no_finding_and_its_numbers():
    samples = [good("a"), sample("b", [{0: LEFT, -2: RIGHT}], [1]), sample("c", [{}], [])]
    report = check_readers({"train": FakeReader(samples[:2]), "val": FakeReader([good("d")])}, workers=1)
    assert (report.findings, report.may_train(strict=True)) == ([], True)
    summary = report.splits["train"]
    assert (summary.images, summary.readable, summary.segments, summary.segments_per_image) == (2, 2, 3, (1, 1.5, 2))
    assert (summary.sizes, summary.ignored) == (((6, 8), (6, 8)), 24 / 96)
    assert (summary.class_segments, summary.class_images) == ({0: 1, 1: 2}, {0: 1, 1: 2})
    assert summary.class_pixels == {0: 24, 1: 48}


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
