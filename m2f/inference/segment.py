"""One segment of an image, with its mask in several forms."""

from dataclasses import dataclass, field

import numpy as np

from m2f.evaluation.mask_rle import encode_masks
from m2f.inference.detection import Box


@dataclass(frozen=True, eq=False)
class Segment:
    """A segment of an image. Sizes and positions are in pixels of the image.

    Args:
        id: from 1, its value in `SegmentationResult.id_map`.
        label_id, label: its class.
        score: confidence in [0, 1].
        box: (left, top, right, bottom), right and bottom being the first ones outside.
        area: number of its pixels.
        is_thing: whether it is an object, and not all of a class in the image.
        size: (height, width) of the image.
        crop: (bottom - top, right - left) bool, its pixels in the box.
    """

    id: int
    label_id: int
    label: str
    score: float
    box: Box
    area: int
    is_thing: bool
    size: tuple[int, int]
    _values: np.ndarray = field(repr=False)  # inside the box,
    _value: int | bool = field(repr=False)  # and those of them that are the segment

    @property
    def crop(self) -> np.ndarray:
        return self._values == self._value

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool."""
        mask = np.zeros(self.size, bool)
        mask[self.box.slices] = self.crop
        return mask

    @property
    def rle(self) -> dict:
        """COCO's compressed run-length encoding of the mask, "size" [H, W] and "counts" (str)."""
        return encode_masks([{"size": list(self.size), "counts": _runs(self.crop, self.box, self.size)}])[0]


def _runs(crop: np.ndarray, box: Box, size: tuple[int, int]) -> list[int]:
    """Lengths of the runs outside and inside, in turn, column by column of the whole image. The time is that of the
    box, where `encode_masks` would take that of the image for each segment."""
    # A row of zeros below, so that no run goes on from one column of the box to the next.
    columns = np.zeros((box.width, box.height + 1), bool)
    columns[:, :-1] = crop.T
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False))
    column, row = np.divmod(changes, box.height + 1)
    borders = (box.left + column) * size[0] + box.top + row
    # Where the box is as high as the image, a run may end where the next one starts.
    joined = np.flatnonzero(borders[1:-1:2] == borders[2::2])
    borders = np.delete(borders, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    counts = np.diff(borders, prepend=0, append=size[0] * size[1]).tolist()
    return counts[:-1] if not counts[-1] else counts
