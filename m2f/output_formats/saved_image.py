"""What was found in an image, as the formats take it; and its objects' polygons, with what they lose."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from m2f.data.drawn_shapes import runs_of_mask
from m2f.evaluation.mask_rle import encode_masks
from m2f.output_formats.mask_outlines import DEFAULT_TOLERANCE, Part, mask_parts, part_polygons


class SavedObject(NamedTuple):
    """A segment of an image.

    label_id, label: its class.
    score: in [0, 1].
    box: (left, top, right, bottom) in pixels, right and bottom being the first ones outside.
    crop: (bottom - top, right - left) bool, its pixels in the box.
    rle: COCO's compressed run lengths of the whole mask, if they are known.
    """

    label_id: int
    label: str
    score: float
    box: tuple[int, int, int, int]
    crop: np.ndarray
    rle: dict | None = None

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.crop))

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool."""
        left, top, right, bottom = self.box
        mask = np.zeros(size, bool)
        mask[top:bottom, left:right] = self.crop
        return mask

    def run_lengths(self, size: tuple[int, int]) -> dict:
        """COCO's compressed run lengths."""
        return encode_masks([runs_of_mask(self.mask(size))])[0] if self.rle is None else self.rle


class SavedImage(NamedTuple):
    """An image and what was found in it.

    file_name: relative to the folder of the images, with "/" between folders.
    size: (height, width).
    objects: best first where they overlap.
    is_there: whether its file can be put beside the labels.
    """

    file_name: str
    size: tuple[int, int]
    objects: Sequence[SavedObject]
    is_there: bool = True

    def number_map(self) -> np.ndarray:
        """(H, W) int32, the object of each pixel from 1 on, 0 where there is none; of several the first."""
        numbers = np.zeros(self.size, np.int32)
        for number, entry in reversed(list(enumerate(self.objects, start=1))):
            left, top, right, bottom = entry.box
            numbers[top:bottom, left:right][entry.crop] = number
        return numbers


@dataclass
class Outliner:
    """Makes polygons of objects, and measures how well they fit.

    Args:
        tolerance: in pixels, see `mask_parts`.
    """

    tolerance: float = DEFAULT_TOLERANCE
    ious: list[float] = field(default_factory=list)
    with_holes: int = 0
    with_parts: int = 0

    def parts(self, entry: SavedObject) -> list[Part]:
        """The parts of an object, in pixels of its image."""
        parts = mask_parts(entry.crop, self.tolerance)
        self.ious.append(_overlap(parts, entry.crop))
        self.with_holes += any(part.holes for part in parts)
        self.with_parts += len(parts) > 1
        offset = np.array(entry.box[:2])
        return [Part(part.outer + offset, [hole + offset for hole in part.holes]) for part in parts]

    def summary(self, parts_are: str) -> list[str]:
        """What people are to know.

        Args:
            parts_are: what became of the parts of an object.
        """
        if not self.ious:
            return []
        lines = [
            f"polygons: mean IoU with the masks {np.mean(self.ious):.4f}, lowest {min(self.ious):.3f} (tolerance "
            f"{self.tolerance:g} pixels)"
        ]
        if self.with_holes:
            lines.append(f"objects with holes, which a line without width joins to the outline: {self.with_holes}")
        if self.with_parts:
            lines.append(f"objects of several parts, {parts_are}: {self.with_parts}")
        return lines


def polygon_numbers(polygon: np.ndarray) -> list[float]:
    """[x0, y0, x1, y1, ...], whole numbers as such."""
    return [int(value) if value == int(value) else float(value) for value in polygon.ravel()]


def _overlap(parts: Sequence[Part], mask: np.ndarray) -> float:
    """IoU of a mask and its polygons as COCO's tools fill them."""
    from pycocotools import mask as coco_mask

    polygons = [polygon_numbers(polygon) for polygon in part_polygons(parts)]
    filled = coco_mask.merge(coco_mask.frPyObjects(polygons, *mask.shape))
    return float(coco_mask.iou([filled], [coco_mask.encode(np.asfortranarray(mask, np.uint8))], [0])[0, 0])
