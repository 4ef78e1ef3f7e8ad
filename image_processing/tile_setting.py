"""The size of the tiles that large images are cut into, as a processor's fields and a user say it."""

import reprlib

# Of the tile's size. An object that is no longer than the overlap is whole in one tile at least.
DEFAULT_OVERLAP = 0.25


def check_tile(tile: int | None, overlap: int | None) -> int:
    """The overlap in pixels, of which None is a quarter of the tile.

    Raises:
        ValueError: a tile below 32 pixels (the stride of the coarsest features), an overlap that is negative or more
            than half of the tile, an overlap without tiles, or one that is no whole number.
    """
    for name, value in (("tile", tile), ("tile_overlap", overlap)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise ValueError(f"{name} must be a whole number of pixels, got {reprlib.repr(value)}")
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


def choose_tile(
    tile: int | None, overlap: int | None, default_tile: int | None, default_overlap: int | None
) -> tuple[int | None, int]:
    """The tile to use, None for none, and its overlap in pixels.

    Args:
        tile, overlap: what a user asks for: pixels, 0 for no tiles, None for the default. An overlap alone goes with
            the default tile; a tile alone has a quarter of it.
        default_tile, default_overlap: the checkpoint's.

    Raises:
        ValueError: as `check_tile`.
    """
    if tile is None:
        tile, overlap = default_tile, default_overlap if overlap is None else overlap
    elif tile == 0:
        tile = None
    return tile, check_tile(tile, overlap)
