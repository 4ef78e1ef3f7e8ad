"""Inspects all images of several splits in worker processes, and survives images that kill their process."""

import logging
import signal
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from m2f.data.image_inspection import Finding, ImageRecord, inspect_image
from m2f.data.segmentation_dataset import SegmentationDataset

_CHUNK = 4  # images a task: sending a task costs far less than decoding one image
# A process that starts anew imports the library, which takes as long as reading some hundred small images.
_MIN_IMAGES_PER_WORKER = 32

Task = tuple[str, range]  # split, indices


@dataclass(frozen=True)
class Inspector:
    """What is needed to inspect any image; sent to the workers by pickle where processes do not fork.

    Args:
        readers: by split.
        names: class names by split, None where they are unknown. Beside the readers, because some of these read all
            their labels to list the classes.
        tiny_pixels: segments with fewer pixels are noted.
    """

    readers: Mapping[str, SegmentationDataset]
    names: Mapping[str, dict[int, str] | None]
    tiny_pixels: int

    def __call__(self, split: str, indices: range) -> list[ImageRecord]:
        reader, names = self.readers[split], self.names[split]
        return [inspect_image(reader, split, index, names, self.tiny_pixels) for index in indices]


def inspect_all(inspector: Inspector, workers: int) -> Iterator[ImageRecord]:
    """A record of every image of every split, in no particular order.

    Args:
        workers: processes at most; few images are inspected in this process.
    """
    lengths = {split: len(reader) for split, reader in inspector.readers.items()}
    todo = deque(
        (split, range(start, min(start + _CHUNK, length)))
        for split, length in lengths.items()
        for start in range(0, length, _CHUNK)
    )
    workers = min(workers, sum(lengths.values()) // _MIN_IMAGES_PER_WORKER)
    if workers < 2:
        for task in todo:
            yield from inspector(*task)
        return
    while todo:
        suspects = yield from _inspect_until_a_worker_dies(inspector, workers, todo)
        for split, indices in suspects:
            for index in indices:
                yield from _inspect_alone(inspector, split, index)


def _inspect_until_a_worker_dies(
    inspector: Inspector, workers: int, todo: deque[Task]
) -> Generator[ImageRecord, None, list[Task]]:
    """Takes tasks from `todo`, few at a time; returns those that were under way when a worker died."""
    pool = _pool(inspector, workers)
    running: dict[Future, Task] = {}
    try:
        while todo or running:
            while todo and len(running) < 2 * workers:
                running[pool.submit(_inspect, *todo[0])] = todo[0]
                todo.popleft()  # only now: the pool may have refused the task
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield from future.result()
                del running[future]
    except BrokenProcessPool:
        return list(running.values())
    finally:
        pool.shutdown(cancel_futures=True)
    return []


def _inspect_alone(inspector: Inspector, split: str, index: int) -> Iterator[ImageRecord]:
    """In a process of its own, which the image may kill."""
    with _pool(inspector, 1) as pool:
        try:
            yield from pool.submit(_inspect, split, range(index, index + 1)).result()
        except BrokenProcessPool:
            name = inspector.readers[split].name_of(index)
            message = "the process ended without an error message: out of memory, or a crash of a decoder"
            yield ImageRecord(split, index, name, findings=(Finding("dead worker", split, name, message),))


def _pool(inspector: Inspector, workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(inspector,))


# In a worker: the inspector, sent once instead of with each task.
_inherited: list[Inspector] = []


def _start_worker(inspector: Inspector):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, once
    # What it says is among the findings, and not to be said by every process.
    logging.getLogger("m2f.data").setLevel(logging.ERROR)
    _inherited[:] = [inspector]


def _inspect(split: str, indices: range) -> list[ImageRecord]:
    return _inherited[0](split, indices)
