"""How a large image is cut into overlapping tiles of one size, and how much their pixels count where they overlap."""

from collections.abc import Mapping
from itertools import product

import numpy as np

from m2f.image_processing.resize_rule import resized_size
from m2f.inference.detection import Box


def tile_boxes(size: tuple[int, int], tile: int, overlap: int) -> list[Box]:
    """The tiles of an image, row by row. They cover it, each is `tile` pixels high and wide or as much as the image
    has, and neighbours share at least `overlap` pixels, evenly.

    Args:
        size: (height, width) of the image.
        tile: pixels, at least 1.
        overlap: pixels, at least 0 and less than `tile`.
    """
    rows, columns = (_starts(length, tile, overlap) for length in size)
    height, width = (min(length, tile) for length in size)
    return [Box(left, top, left + width, top + height) for top, left in product(rows, columns)]


def tile_input_size(size: tuple[int, int], tile: int, processor_size: Mapping[str, int]) -> tuple[int, int]:
    """(height, width) that a tile is resized to: by the factor of a whole one, also where the image is less high or
    wide than a tile, so that all tiles show the image at one scale.

    Args:
        size: (height, width) of the tile.
        processor_size: `size` of the image processor.
    """
    whole = resized_size((tile, tile), processor_size)
    height, width = (max(1, round(length * target / tile)) for length, target in zip(size, whole, strict=True))
    return height, width


def tile_weight(tile: Box, size: tuple[int, int], overlap: int) -> np.ndarray:
    """(tile.height, tile.width) float32 weights above 0, up to 1, of a tile's pixels: 1 in the middle, falling over
    `overlap` pixels to the borders inside the image, near which a tile sees little of what is around."""
    rows = _ramp(tile.height, tile.top > 0, tile.bottom < size[0], overlap)
    columns = _ramp(tile.width, tile.left > 0, tile.right < size[1], overlap)
    return np.outer(rows, columns)


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the tiles along an edge."""
    if length <= tile:
        return [0]
    steps = -(-(length - tile) // (tile - overlap))
    return [round(step * (length - tile) / steps) for step in range(steps + 1)]


def _ramp(length: int, falls_at_start: bool, falls_at_end: bool, overlap: int) -> np.ndarray:
    """(length,) in (0, 1], 1 where nothing falls."""
    places = np.arange(length, dtype=np.float32)
    from_start = (places + 0.5) / max(overlap, 1) if falls_at_start else np.ones(length, np.float32)
    from_end = (length - places - 0.5) / max(overlap, 1) if falls_at_end else np.ones(length, np.float32)
    return np.minimum(np.minimum(from_start, from_end), 1).astype(np.float32)
