"""A dataset as training sees it: augmented, the same under a seed for any number of workers, and firm against a broken
image."""

import warnings

import numpy as np
import torch

from m2f.data.augmentation import Augmentation
from m2f.data.segment_map import Sample
from m2f.data.segmentation_dataset import SampleSource
from m2f.output.safe_text import terminal_text

_POLICIES = ("raise", "skip")
# A few broken images are stepped over; so many in a row, each drawn from all, mean that the dataset is broken.
_MAX_TRIES = 16


class TrainingDataset(torch.utils.data.Dataset):
    """A map-style dataset of augmented samples.

    All chance of item i in epoch e comes from `np.random.default_rng([seed, e, i])`: an item is the same in any order,
    with any number of workers and processes.

    The epoch and the marks of broken images lie in shared memory. So `set_epoch` reaches workers that live on
    (`persistent_workers`), from the next `iter(loader)` on, and `skipped` counts what all workers of this process met,
    however they were started. Processes of a distributed run count each for itself. A pickled copy outside
    `torch.multiprocessing` has its own.

    Accelerate's loaders call `set_epoch` on one process, but not where they split a sampler that has its own
    `set_epoch` between several (accelerate 1.15, `DataLoaderShard.set_epoch`): a training loop calls it itself.

    Args:
        dataset: a reader of `m2f.data`.
        augmentation: called with each sample and its generator; None leaves samples as they are.
        seed: at least 0.
        epoch: the first epoch, at least 0.
        on_error: for an image that cannot be read (the reader raises OSError, which FileNotFoundError is, or
            ValueError): "raise" stops the run at once with its path; "skip" warns with its path once, counts it, and
            gives the sample of another index in its place, which depends on seed, epoch and index alone. Errors of the
            augmentation are never skipped.

    Raises:
        ValueError: `on_error` is another, or `seed` or `epoch` negative; for an item: it cannot be read.
    """

    def __init__(
        self,
        dataset: SampleSource,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        epoch: int = 0,
        on_error: str = "raise",
    ):
        if on_error not in _POLICIES:
            raise ValueError(f"on_error must be one of {', '.join(_POLICIES)}, got {on_error!r}")
        _check_not_negative("seed", seed)
        self.dataset = dataset
        self.augmentation = augmentation
        self.seed = seed
        self.on_error = on_error
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        # One byte per image and not a counter: workers need no lock to set it, and epochs do not count it again.
        self._broken = torch.zeros(len(dataset), dtype=torch.uint8).share_memory_()
        self.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]  # from the end where negative; IndexError, which ends a loop, past the end
        generator = np.random.default_rng([self.seed, self.epoch, index])
        sample = self._read(index, generator)
        return sample if self.augmentation is None else self.augmentation(sample, generator)

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int):
        """Changes the random numbers of all items. Call it before the loader's iterator is made.

        Raises:
            ValueError: a negative epoch.
        """
        _check_not_negative("epoch", epoch)
        self._epoch.fill_(epoch)

    @property
    def skipped(self) -> int:
        """Number of different images that could not be read so far."""
        return int(self._broken.sum())

    @property
    def skipped_names(self) -> list[str]:
        """Their names."""
        return [self.dataset.name_of(index) for index in self._broken.nonzero().flatten().tolist()]

    def _read(self, index: int, generator: np.random.Generator) -> Sample:
        for _ in range(_MAX_TRIES):
            try:
                return self.dataset[index]
            except (OSError, ValueError) as error:
                if self.on_error == "raise":
                    remedy = "repair or remove it (`m2f check` lists all such), or pass on_error='skip'"
                    raise ValueError(f"{self._describe(index)} cannot be read: {error}; {remedy}") from error
                self._report(index, error)
                index = int(generator.integers(len(self)))
        raise ValueError(
            f"{_MAX_TRIES} images drawn one after the other could not be read, {self._describe(index)} among them; "
            "`m2f check` lists what is wrong with them"
        )

    def _report(self, index: int, error: Exception):
        if not self._broken[index]:
            self._broken[index] = 1
            text = terminal_text(f"{self._describe(index)} cannot be read and is left out: {error}")
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _describe(self, index: int) -> str:
        path = self.dataset.image_path(index)
        return f"image {index} ({self.dataset.name_of(index) if path is None else path})"


def _check_not_negative(name: str, value: int):
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
