"""Found objects as small pieces of the image: a box and the pixels inside it, so that many fit into memory."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch


class Box(NamedTuple):
    """A rectangle of pixels; `right` and `bottom` are the first ones outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def is_empty(self) -> bool:
        return self.height <= 0 or self.width <= 0

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns, as an index of a map."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def common(self, other: "Box") -> "Box":
        """The rectangle that both cover; see `is_empty`."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        return Box(left, top, min(self.right, other.right), min(self.bottom, other.bottom))

    def around(self, other: "Box") -> "Box":
        """The smallest rectangle that covers both."""
        left, top = min(self.left, other.left), min(self.top, other.top)
        return Box(left, top, max(self.right, other.right), max(self.bottom, other.bottom))

    def moved(self, left: int, top: int) -> "Box":
        """The same rectangle in a map whose origin lies at (-left, -top)."""
        return Box(self.left + left, self.top + top, self.right + left, self.bottom + top)


class Detection(NamedTuple):
    """An object.

    label_id, score: class, and confidence in [0, 1].
    box: the smallest that holds all its pixels, in the image.
    pixels: (box.height, box.width) bool.
    """

    label_id: int
    score: float
    box: Box
    pixels: np.ndarray

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.pixels))

    def inside(self, box: Box) -> np.ndarray:
        """The part of `pixels` that lies in a box, which may be larger than the object's."""
        common = self.box.common(box)
        if common.is_empty:
            return np.zeros((0, 0), bool)
        return self.pixels[common.moved(-self.box.left, -self.box.top).slices]

    def shared_pixels(self, other: "Detection", box: Box | None = None) -> int:
        """How many pixels both have; those in a box alone, if one is given."""
        common = self.box.common(other.box)
        common = common if box is None else common.common(box)
        return 0 if common.is_empty else int(np.count_nonzero(self.inside(common) & other.inside(common)))

    def moved(self, left: int, top: int) -> "Detection":
        return self._replace(box=self.box.moved(left, top))


def detections_from_masks(masks: torch.Tensor, infos: Sequence[Mapping[str, Any]]) -> list[Detection]:
    """The objects of `post_process_instance_segmentation(..., return_binary_maps=True)`.

    Args:
        masks: (N, H, W) bool, each with at least a pixel.
        infos: N mappings with `label_id` and `score`.
    """
    # One mask at a time: all together would be copied from a GPU as a whole.
    return [_detection(mask.cpu().numpy(), info) for mask, info in zip(masks, infos, strict=True)]


def detections_from_map(ids: np.ndarray, infos: Sequence[Mapping[str, Any]]) -> list[Detection]:
    """The objects of an id map; those without a pixel are left out.

    Args:
        ids: (H, W) integers.
        infos: mappings with `id` from 1, `label_id` and `score`.
    """
    boxes = boxes_of_ids(ids, max((info["id"] for info in infos), default=0))
    found = ((info, boxes[info["id"] - 1]) for info in infos)
    return [
        Detection(info["label_id"], info["score"], box, ids[box.slices] == info["id"]) for info, box in found if box
    ]


def boxes_of_ids(ids: np.ndarray, highest: int) -> list[Box | None]:
    """The box of each of the ids 1 to `highest` in an (H, W) map; None for one without a pixel."""
    from scipy.ndimage import find_objects

    found = find_objects(np.asarray(ids), max_label=highest) if highest else []
    return [slices and Box(slices[1].start, slices[0].start, slices[1].stop, slices[0].stop) for slices in found]


def paint_ids(size: tuple[int, int], detections: Sequence[Detection]) -> np.ndarray:
    """(H, W) int32 map of detections, numbered from 1 in their order, 0 where there is none; the first on top."""
    ids = np.zeros(size, np.int32)
    for number in range(len(detections), 0, -1):
        detection = detections[number - 1]
        ids[detection.box.slices][detection.pixels] = number
    return ids


def _detection(mask: np.ndarray, info: Mapping[str, Any]) -> Detection:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Detection(info["label_id"], info["score"], box, mask[box.slices].copy())  # not a view that keeps the mask
