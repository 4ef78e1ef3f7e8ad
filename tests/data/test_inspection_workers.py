"""Images that several processes inspect."""

import os

from checked_samples import found, image_with
from fake_reader import FakeReader, good

from m2f.data.dataset_check import check_readers


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
