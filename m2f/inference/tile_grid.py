"""How a large image is cut into overlapping tiles of one size."""

from collections.abc import Mapping
from itertools import product

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
    return tuple(max(1, round(length * target / tile)) for length, target in zip(size, whole, strict=True))


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the tiles along an edge."""
    if length <= tile:
        return [0]
    steps = -(-(length - tile) // (tile - overlap))
    return [round(step * (length - tile) / steps) for step in range(steps + 1)]
