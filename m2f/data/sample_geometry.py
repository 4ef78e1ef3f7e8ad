"""A sample at another size, in a window, mirrored: what augmentations do once they have drawn their numbers.

Labels are moved as the index maps they are, with nearest neighbours: a pixel takes the label under its centre, as in
PIL. Images are resized with PIL's bilinear filter, which averages where it shrinks, as detectron2's ResizeTransform.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from m2f.data.segment_map import Sample, SegmentMap
from m2f.image_processing.band_image import PixelImage

_MIRRORS = {
    "horizontal": (Image.Transpose.FLIP_LEFT_RIGHT, lambda ids: ids[:, :, ::-1]),
    "vertical": (Image.Transpose.FLIP_TOP_BOTTOM, lambda ids: ids[:, ::-1]),
    "transpose": (Image.Transpose.TRANSPOSE, lambda ids: ids.transpose(0, 2, 1)),
}


class Window(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class ResizedView:
    """A sample as it is at `size` (height, width); nothing is computed but the windows that are asked for.

    A jittered image may have 16 times the pixels of the crop that is taken from it.
    """

    sample: Sample
    size: tuple[int, int]

    def ids(self, window: Window) -> np.ndarray:
        """(G, height, width) int32 of the window; the segments are still numbered as in the sample."""
        rows = nearest_indices(window.top, window.height, self.size[0], self.sample.segments.size[0])
        columns = nearest_indices(window.left, window.width, self.size[1], self.sample.segments.size[1])
        return self.sample.segments.ids.take(rows, 1).take(columns, 2)  # 4 times faster than one index with both

    def image(self, window: Window) -> PixelImage:
        """The window's pixels, equal to those of the whole image resized and then cropped, up to rounding."""
        image = self.sample.image
        top, left, height, width = window
        if self.size == (image.height, image.width):
            return image.crop((left, top, left + width, top + height))
        (new_height, new_width), (old_width, old_height) = self.size, image.size
        edges_x = (left * old_width / new_width, (left + width) * old_width / new_width)
        edges_y = (top * old_height / new_height, (top + height) * old_height / new_height)
        # The filter reaches beyond the box, into the rest of the image.
        box = (edges_x[0], edges_y[0], edges_x[1], edges_y[1])
        return image.resize((width, height), Image.Resampling.BILINEAR, box)

    def cut(self, window: Window | None = None) -> Sample:
        """The window, by default the whole, as a sample; segments without a pixel in it are dropped."""
        whole = Window(0, 0, *self.size)
        window = whole if window is None else window
        if window == whole and self.size == self.sample.segments.size:
            return self.sample
        segments = self.sample.segments.with_ids(self.ids(window))
        return replace(self.sample, image=self.image(window), segments=segments)


def resize(sample: Sample, size: tuple[int, int]) -> Sample:
    """The sample at `size` (height, width)."""
    return ResizedView(sample, size).cut()


def resize_ids(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(G, h, w) -> (G, *size)."""
    if ids.shape[1:] == tuple(size):
        return ids
    rows, columns = (nearest_indices(0, new, new, old) for new, old in zip(size, ids.shape[1:], strict=True))
    return ids.take(rows, 1).take(columns, 2)


def mirror(sample: Sample, axis: str) -> Sample:
    """Left and right change places ("horizontal"), or top and bottom ("vertical"), or rows and columns
    ("transpose")."""
    method, view = _MIRRORS[axis]
    segments = SegmentMap(np.ascontiguousarray(view(sample.segments.ids)), sample.segments.class_ids)
    return replace(sample, image=sample.image.transpose(method), segments=segments)


def nearest_indices(start: int, count: int, new: int, old: int) -> np.ndarray:
    """(count,) int64: for the pixels from `start` on of an axis resized from `old` to `new` pixels, the pixel of the
    old axis under their centre: floor((i + 1/2) * old / new), in whole numbers, so that ties never depend on rounding.

    The original's mappers give label maps of float64 to torch's "nearest", floor(i * old / new), which moves labels by
    up to half a pixel of the image against its pixels (departure).
    """
    return (2 * np.arange(start, start + count, dtype=np.int64) + 1) * old // (2 * new)
