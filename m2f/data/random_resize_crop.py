"""Random sizes and random windows, as in the original's recipes.

`ResizeAndCrop` is what to use for one after the other: it computes the pixels of the window alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m2f.data.sample_geometry import ResizedView, Window
from m2f.data.segment_map import Sample, SegmentMap
from m2f.image_processing.resize_rule import shortest_edge_size

_CATEGORY_TRIES = 10


class RandomResize(ABC):
    """Draws the size for an image; called with a sample, resizes it."""

    @abstractmethod
    def draw_size(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
        """(height, width) for an image of `size`."""

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        return ResizedView(sample, self.draw_size(sample.segments.size, generator)).cut()


class RandomWindow(ABC):
    """Draws a window of an image; called with a sample, crops it."""

    @abstractmethod
    def draw_window(self, view: ResizedView, generator: np.random.Generator) -> Window:
        """A window inside `view`."""

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        view = ResizedView(sample, sample.segments.size)
        return view.cut(self.draw_window(view, generator))


@dataclass(frozen=True)
class ResizeAndCrop:
    """`resize`, then `crop`."""

    resize: RandomResize
    crop: RandomWindow

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        view = ResizedView(sample, self.resize.draw_size(sample.segments.size, generator))
        return view.cut(self.crop.draw_window(view, generator))


@dataclass(frozen=True)
class LargeScaleJitter(RandomResize):
    """The image as large as fits, with its aspect ratio, into `size` times a factor from [min_scale, max_scale).

    Source: "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation" (Ghiasi et al., 2021),
    section 3; computed as detectron2's ResizeScale, but an edge never becomes 0.

    Args:
        size: (height, width) that a factor of 1 fits the image into.
    """

    size: tuple[int, int]
    min_scale: float = 0.1
    max_scale: float = 2.0

    def __post_init__(self):
        _check_size(self.size)
        if not 0 < self.min_scale <= self.max_scale:
            raise ValueError(f"0 < min_scale <= max_scale is needed, got {self.min_scale} and {self.max_scale}")

    def draw_size(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
        factor = generator.uniform(self.min_scale, self.max_scale)
        scale = min(factor * target / edge for target, edge in zip(self.size, size, strict=True))
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


@dataclass(frozen=True)
class ResizeShortestEdge(RandomResize):
    """The shorter edge at one of `edges`, each as likely, less where the longer one would exceed `max_size`."""

    edges: Sequence[int]
    max_size: int

    def __post_init__(self):
        if not self.edges or min(*self.edges, self.max_size) < 1:
            raise ValueError(f"edges and max_size must be at least 1, got {self.edges} and {self.max_size}")

    def draw_size(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
        return shortest_edge_size(size, self.edges[int(generator.integers(len(self.edges)))], self.max_size)


@dataclass(frozen=True)
class RandomCrop(RandomWindow):
    """A window of at most `size` (height, width) at a uniform place; an axis that is shorter stays whole."""

    size: tuple[int, int]

    def __post_init__(self):
        _check_size(self.size)

    def draw_window(self, view: ResizedView, generator: np.random.Generator) -> Window:
        height, width = (min(pair) for pair in zip(self.size, view.size, strict=True))
        top = int(generator.integers(view.size[0] - height + 1))
        left = int(generator.integers(view.size[1] - width + 1))
        return Window(top, left, height, width)


@dataclass(frozen=True)
class FixedSizeCrop(RandomWindow):
    """A window of at most `size` (height, width) whose place on both axes comes from one random number.

    So all windows lie along a diagonal, as those of detectron2's FixedSizeCrop, which the COCO models of the paper
    were trained with. `RandomCrop` draws the axes apart.
    """

    size: tuple[int, int]

    def __post_init__(self):
        _check_size(self.size)

    def draw_window(self, view: ResizedView, generator: np.random.Generator) -> Window:
        place = generator.random()
        height, width = (min(pair) for pair in zip(self.size, view.size, strict=True))
        return Window(round((view.size[0] - height) * place), round((view.size[1] - width) * place), height, width)


@dataclass(frozen=True)
class RandomCropWithCategoryConstraint(RandomCrop):
    """`RandomCrop` that draws again, 10 times at most, while one class fills the window.

    A window is taken when none of its classes covers `single_category_max_area` or more of the labelled pixels;
    ignored pixels and those without a segment do not count. The last one is taken if none is. The paper's recipes have
    1.0, which takes any window.

    Raises:
        ValueError: `single_category_max_area` outside (0, 1].
    """

    single_category_max_area: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.single_category_max_area <= 1:
            raise ValueError(f"single_category_max_area must be in (0, 1], got {self.single_category_max_area}")

    def draw_window(self, view: ResizedView, generator: np.random.Generator) -> Window:
        for _ in range(_CATEGORY_TRIES):
            window = super().draw_window(view, generator)
            if self.single_category_max_area == 1 or self._is_mixed(view, window):
                break
        return window

    def _is_mixed(self, view: ResizedView, window: Window) -> bool:
        class_ids = view.sample.segments.class_ids
        areas = np.bincount(class_ids, SegmentMap(view.ids(window), class_ids).areas())
        return areas.max(initial=0) < self.single_category_max_area * areas.sum()


def _check_size(size: tuple[int, int]):
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be (height, width), each at least 1 pixel, got {size}")
