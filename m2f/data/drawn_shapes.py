"""Shapes of annotation tools as COCO's segmentations: outlines as polygons, masks as run lengths."""

import math
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from m2f.data.coco_masks import decode_strip

_SAGITTA = 0.05  # pixels that a polygon may be off a curve by
_FEWEST_CORNERS, _MOST_CORNERS = 16, 4096


def rectangle(x0: float, y0: float, x1: float, y1: float, degrees: float = 0.0) -> list[float]:
    """The polygon [x0, y0, x1, y1, ...] of a box with two opposite corners, turned clockwise around its centre."""
    x, y, half_width, half_height = (x0 + x1) / 2, (y0 + y1) / 2, abs(x1 - x0) / 2, abs(y1 - y0) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [half_width, half_height]
    return _placed(corners, x, y, degrees)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0.0) -> list[float]:
    """The polygon of an ellipse, turned clockwise around its centre; off the curve by 0.05 pixels at most, up to radii
    of 80,000 pixels.

    Raises:
        ValueError: a radius below 0.
    """
    if min(radius_x, radius_y) < 0:
        raise ValueError(f"an ellipse has the radii {radius_x} and {radius_y}; 0 or more is needed")
    needed = math.pi * math.sqrt(min(max(radius_x, radius_y), 1e6) / (2 * _SAGITTA))
    count = min(max(math.ceil(needed), _FEWEST_CORNERS), _MOST_CORNERS)
    angles = np.arange(count) * (2 * math.pi / count)
    return _placed(np.stack([radius_x * np.cos(angles), radius_y * np.sin(angles)], 1), x, y, degrees)


def flat_points(points: Any) -> list[float]:
    """[x0, y0, x1, y1, ...] of a list of (x, y).

    Raises:
        ValueError: no such list.
    """
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise ValueError(f"the points are {reprlib.repr(points)}; a list of [x, y] is needed")
    return numbers([value for point in points for value in point])


def numbers(values: Sequence[Any], count: int | None = None) -> list[float]:
    """The values as floats.

    Raises:
        ValueError: one is no finite number, or there are others than `count`.
    """
    if count is not None and len(values) != count:
        raise ValueError(f"{len(values)} numbers are given, {reprlib.repr(values)}; {count} are needed")
    for value in values:
        if type(value) not in (int, float) or not -1e9 < value < 1e9:  # True is no number; NaN fails both
            raise ValueError(f"{reprlib.repr(value)} is no number from -1e9 to 1e9")
    return [float(value) for value in values]


def runs_of_mask(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed RLE of a mask, (H, W), nonzero inside."""
    pixels = (mask != 0).T.ravel()
    changes = np.flatnonzero(np.diff(pixels)) + 1
    ends = [0] * bool(pixels[:1].any()) + [0, *changes.tolist(), pixels.size]
    return {"size": list(mask.shape), "counts": np.diff(ends).tolist()}


def placed_mask(mask: np.ndarray, left: int, top: int, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of an image of `size`, with a smaller mask at a place in it.

    Raises:
        ValueError: it reaches beyond the image.
    """
    height, width = mask.shape
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError(
            f"a mask of {height} x {width} at x {left}, y {top} reaches beyond the image of {size[0]} x {size[1]} "
            "(height x width)"
        )
    whole = np.zeros(size, bool)
    whole[top : top + height, left : left + width] = mask != 0
    return whole


def joined(parts: Sequence[list[list[float]] | np.ndarray], size: tuple[int, int]) -> Any:
    """One segmentation, as `decode_strip` takes it, of lists of polygons and masks (H, W) together.

    Raises:
        ValueError: a polygon that `decode_strip` refuses.
    """
    polygons = [polygon for part in parts if isinstance(part, list) for polygon in part]
    masks = [part for part in parts if isinstance(part, np.ndarray)]
    if not masks:
        return polygons
    whole = np.any(masks, 0)
    if polygons:
        strip, left = decode_strip(polygons, *size)
        whole[:, left : left + strip.shape[1]] |= strip != 0
    return runs_of_mask(whole)


def _placed(offsets: np.ndarray, x: float, y: float, degrees: float) -> list[float]:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # x to the right and y down, so that this turns clockwise.
    turned = offsets @ np.array([[cosine, sine], [-sine, cosine]]) if degrees else offsets
    return (turned + [x, y]).ravel().tolist()
