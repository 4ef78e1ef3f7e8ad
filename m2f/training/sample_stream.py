"""The order of the training images: one endless stream, of which each step, pass and process takes its part.

The image at a position of the stream follows from the seed and the position alone. So a run that goes on reads the
same images in the same order, and the images of a step are the same for any number of processes and passes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from m2f.data.segment_map import Sample
from m2f.data.segmentation_dataset import SegmentationDataset


class SampleStream:
    """A reader whose item p is the image at position p: all images in a random order, then all in another, and so on.

    A `TrainingDataset` around it gives each position its own random numbers.

    Args:
        dataset: a reader of `m2f.data`.
        seed: of the orders.
        length: positions that may be asked for.

    Raises:
        ValueError: the dataset has no image.
    """

    def __init__(self, dataset: SegmentationDataset, seed: int, length: int):
        if not len(dataset):
            raise ValueError(f"the dataset has no image in split {dataset.split!r}; training needs at least one")
        self.dataset = dataset
        self.seed = seed
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> Sample:
        return self.dataset[self.index_at(position)]

    def index_at(self, position: int) -> int:
        """The index in the dataset."""
        epoch, place = divmod(position, len(self.dataset))
        return int(_order(self.seed, epoch, len(self.dataset))[place])

    def name_of(self, position: int) -> str:
        return self.dataset.name_of(self.index_at(position))

    def image_path(self, position: int) -> Path | None:
        return self.dataset.image_path(self.index_at(position))


@lru_cache(maxsize=4)  # a step may reach into the next epoch; the passes of several steps are under way in the workers
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    # Four numbers, the last not 0: the three of an augmentation can never make the same generator.
    return np.random.default_rng([seed, epoch, 0, 1]).permutation(count)


@dataclass(frozen=True)
class StreamBatches:
    """A batch sampler: for each pass of each step, the positions that one process reads.

    Args:
        batch_size: images of a step, over all processes and passes.
        passes: forward and backward passes of a step.
        processes, rank: of the run, and which one this is.
        first_step, last_step: steps in [first_step, last_step) are given.

    Raises:
        ValueError: the batch cannot be divided equally.
    """

    batch_size: int
    passes: int
    processes: int
    rank: int
    first_step: int
    last_step: int

    def __post_init__(self):
        if self.batch_size % (self.passes * self.processes):
            raise ValueError(
                f"batch_size {self.batch_size} cannot be divided among {self.processes} processes with "
                f"{self.passes} passes (gradient_accumulation_steps) each; give a multiple of "
                f"{self.passes * self.processes}"
            )

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.passes

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.last_step):
            for number in range(self.passes):
                yield self.positions(step, number)

    def positions(self, step: int, number: int) -> list[int]:
        """Of pass `number` of a step."""
        share = self.batch_size // (self.passes * self.processes)
        start = step * self.batch_size + (number * self.processes + self.rank) * share
        return list(range(start, start + share))
