"""Random changes to samples. Each is called with a sample and a random generator, so that a seed decides all.

An augmentation never pads: a crop of a small image is small, and the collator pads batches at the right and at the
bottom, where `pixel_mask` tells the model. The original's mappers pad with gray 128 that the model cannot tell from
image (departure).
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from m2f.data.sample_geometry import mirror
from m2f.data.segment_map import Sample

_AXES = ("horizontal", "vertical")


class Augmentation(Protocol):
    """Anything that turns a sample into another; it must take all chance from the generator, and be picklable."""

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample: ...


@dataclass(frozen=True)
class Compose:
    """Augmentations one after the other."""

    steps: tuple[Augmentation, ...]

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        for step in self.steps:
            sample = step(sample, generator)
        return sample


@dataclass(frozen=True)
class RandomFlip:
    """Mirrored along `axis`, "horizontal" (left and right change places) or "vertical", with `probability`.

    Raises:
        ValueError: another axis, or a probability outside [0, 1].
    """

    axis: str = "horizontal"
    probability: float = 0.5

    def __post_init__(self):
        if self.axis not in _AXES:
            raise ValueError(f"axis must be one of {', '.join(_AXES)}, got {self.axis!r}")
        _check_probability(self.probability)

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        return mirror(sample, self.axis) if generator.random() < self.probability else sample


@dataclass(frozen=True)
class RandomTranspose:
    """Rows and columns exchanged with `probability`. With both flips this gives all eight orientations, for images
    that have no upright one, such as those of a microscope.

    Raises:
        ValueError: a probability outside [0, 1].
    """

    probability: float = 0.5

    def __post_init__(self):
        _check_probability(self.probability)

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        return mirror(sample, "transpose") if generator.random() < self.probability else sample


def _check_probability(probability: float):
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be in [0, 1], got {probability}")
