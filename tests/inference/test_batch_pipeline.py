"""Items of the pipeline are numbers; what becomes of them is known."""

import threading
import time
from typing import NamedTuple

import pytest

from m2f.inference.batch_pipeline import BatchPipeline


class Ready(NamedTuple):
    number: int
    key: object


class Recorder:
    """The three steps, and what they were called with."""

    def __init__(self, key=lambda number: number % 2, **options):
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self.key = key
        self.pipeline = BatchPipeline(self.prepare, self.compute, self.finish, **options)

    def prepare(self, number: int) -> Ready:
        self.threads.add(threading.current_thread().name)
        if number == 13:
            raise ValueError("13 cannot be read")
        return Ready(number, self.key(number))

    def compute(self, items: list[Ready]) -> list[int]:
        self.batches.append([item.number for item in items])
        if any(item.number == 17 for item in items):
            raise ValueError("17 cannot be computed")
        return [10 * item.number for item in items]

    def finish(self, item: Ready, computed: int) -> tuple[int, int]:
        if item.number == 19:
            raise ValueError("19 cannot be finished")
        if item.number == 99:
            raise OSError("the disk is full")
        return item.number, computed


def test_results_and_batches():
    steps = Recorder(batch_size=3)
    outcomes = list(steps.pipeline.run_in_order(range(12)))
    assert [outcome.result for outcome in outcomes] == [(number, 10 * number) for number in range(12)]
    assert [outcome.index for outcome in outcomes] == list(range(12))
    assert all(len({number % 2 for number in batch}) == 1 for batch in steps.batches)  # of one key
    assert sorted(map(len, steps.batches)) == [3, 3, 3, 3]
    assert all(name != threading.current_thread().name for name in steps.threads)


def test_batches_of_a_size_for_each_key():
    """Without a key an item comes alone."""
    steps = Recorder(lambda number: (None, "twos", "fours")[number % 3], batch_size={"twos": 2, "fours": 4}.get)
    outcomes = list(steps.pipeline.run_in_order(range(12)))
    assert [outcome.index for outcome in outcomes] == list(range(12))
    sizes = [[len(batch) for batch in steps.batches if batch[0] % 3 == rest] for rest in range(3)]
    assert sizes == [[1] * 4, [2, 2], [4]]


def test_few_items_are_read_before_it_is_known_how_many_come_together():
    read = []

    def source():
        for number in range(100):
            read.append(number)
            yield number

    steps = Recorder(key=lambda number: "large", batch_size=lambda key: 1, workers=1)
    assert next(steps.pipeline.run(source())).result == (0, 0)
    assert len(read) <= 5


def test_without_items():
    assert list(Recorder().pipeline.run([])) == []


def test_a_bad_item_is_alone():
    steps = Recorder(batch_size=4)
    outcomes = {outcome.item: outcome for outcome in steps.pipeline.run(range(24))}
    errors = {number: str(outcome.error) for number, outcome in outcomes.items() if outcome.error}
    assert errors == {13: "13 cannot be read", 17: "17 cannot be computed", 19: "19 cannot be finished"}
    good = set(range(24)) - set(errors)
    assert {outcomes[number].result for number in good} == {(number, 10 * number) for number in good}


def test_errors_of_the_writer_end_the_run():
    with pytest.raises(OSError, match="disk is full"):
        list(Recorder().pipeline.run([1, 99, 2]))


def test_key_none_is_always_alone():
    steps = Recorder(key=lambda number: None, batch_size=4)
    assert len(list(steps.pipeline.run(range(5)))) == 5
    assert sorted(steps.batches) == [[0], [1], [2], [3], [4]]


def test_an_odd_item_does_not_wait_for_the_end():
    """Item 0 alone has its key. With batches of 2 it waits for 4 batches' worth of items, 8, and no more."""
    steps = Recorder(key=lambda number: number == 0, batch_size=2)
    list(steps.pipeline.run(range(40)))
    assert steps.batches.index([0]) <= 5


def test_items_are_taken_when_there_is_room():
    taken = []

    def source():
        for number in range(1000):
            taken.append(number)
            yield number

    outcomes = Recorder(batch_size=2, workers=2).pipeline.run_in_order(source())
    for _ in range(10):
        next(outcomes)
    # What is read ahead, waits for its batch (two keys, at most 8 items behind), and is being finished.
    assert len(taken) <= 10 + 6 + 10 + 6 + 6
    outcomes.close()  # ends the threads


def test_steps_overlap():
    """10 items of 50 ms in each of three steps: 1500 ms one after another, 1000 ms if two of the steps overlap, and
    500 ms and a little if all do."""

    def wait(*values):
        time.sleep(0.05)
        return values[0]

    pipeline = BatchPipeline(lambda n: wait(Ready(n, 0)), lambda items: wait(items), wait, workers=2)
    started = time.monotonic()
    assert len(list(pipeline.run(range(10)))) == 10
    assert time.monotonic() - started < 0.9
