"""How a large image is cut into overlapping tiles of one size."""

from collections.abc import Mapping
from itertools import product

from m2f.image_processing.resize_rule import resized_size
from m2f.inference.detection import Box

# Of the tile's size. An object that is no longer than the overlap is whole in one tile at least.
DEFAULT_OVERLAP = 0.25


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


def check_tile(tile: int | None, overlap: int | None) -> int:
    """The overlap in pixels, of which None is a quarter of the tile.

    Raises:
        ValueError: a tile below 32 pixels (the stride of the coarsest features), an overlap that is negative or more
            than half of the tile, or an overlap without tiles.
    """
    if tile is None:
        if overlap is not None:
            raise ValueError(f"an overlap of tiles is given ({overlap}) but no tile; give the tile's size too")
        return 0
    if tile < 32:
        raise ValueError(f"tiles of {tile} pixels are too small; at least 32 are needed, and 256 to 1024 are usual")
    overlap = round(tile * DEFAULT_OVERLAP) if overlap is None else overlap
    if not 0 <= overlap <= tile // 2:
        raise ValueError(f"an overlap of {overlap} pixels does not fit tiles of {tile}; 0 to {tile // 2} do")
    return overlap


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
