"""Objects that the borders of tiles cut: which of the tiles' detections are parts of one object."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from m2f.inference.detection import Box, Detection

_SAME_OVER_UNION = 0.5
_SAME_OVER_SMALLER = 0.7
_LEAST_SCORE_RATIO = 0.5
# A mask is predicted for cells of several pixels, so one that is cut may end this share of the tile before the border.
_BORDER_SHARE = 1 / 128


class TileDetection(NamedTuple):
    """A detection and the number of the tile that it was found in."""

    detection: Detection
    tile: int


def is_cut(box: Box, tile: Box, size: tuple[int, int]) -> bool:
    """Whether a detection touches a border of its tile inside the image, so that its object may go on behind it.

    Args:
        size: (height, width) of the image.
    """
    near = max(2, round(max(tile.height, tile.width) * _BORDER_SHARE))
    return (
        (tile.left > 0 and box.left < tile.left + near)
        or (tile.top > 0 and box.top < tile.top + near)
        or (tile.right < size[1] and box.right > tile.right - near)
        or (tile.bottom < size[0] and box.bottom > tile.bottom - near)
    )


def group_parts(detections: Sequence[TileDetection], tiles: Sequence[Box]) -> list[list[int]]:
    """Positions of the detections, grouped by object; alone where an object has one detection.

    Two detections of one label in two tiles are parts of one object if they agree in the zone that both tiles see:

    1. The intersection of their masks there is more than half of their union. A detection has one such partner in each
       other tile at most; of several possible pairs, the one whose lower score is best comes first.
    2. One of them, which has no such partner in the other tile, has fewer pixels in the zone, most of which lie in
       the other, and neither score is less than half of the other. (A tile often sees several pieces of an object
       that is one in the next tile, or a sliver. The scores keep an unsure detection from joining what is certain.)

    Two objects that touch share hardly a pixel in the zone, so they stay two.

    Args:
        detections: that are cut.
    """
    groups = _Groups(len(detections))
    partnered: set[tuple[int, int]] = set()
    partners, pieces = _related(detections, tiles)
    for _, a, b in sorted(partners, reverse=True):
        links = {(a, detections[b].tile), (b, detections[a].tile)}
        if not links & partnered:
            partnered |= links
            groups.join(a, b)
    for piece, other in pieces:
        if (piece, detections[other].tile) not in partnered:
            groups.join(piece, other)
    return groups.all()


def united(parts: Sequence[Detection]) -> Detection:
    """One object of its parts. Its score is that of the largest part, the best view."""
    if len(parts) == 1:
        return parts[0]
    box = parts[0].box
    for part in parts[1:]:
        box = box.around(part.box)
    pixels = np.zeros((box.height, box.width), bool)
    for part in parts:
        pixels[part.box.moved(-box.left, -box.top).slices] |= part.pixels
    largest = max(parts, key=lambda part: (part.area, part.score))
    return Detection(largest.label_id, largest.score, box, pixels)


class BoxGrid:
    """Numbered boxes by the square cells of the image that they touch, to get those near a box without a look at
    all."""

    def __init__(self, cell: int):
        self._cell = cell
        self._members: dict[tuple[int, int], list[int]] = defaultdict(list)

    def add(self, number: int, box: Box):
        for cell in self._cells(box):
            self._members[cell].append(number)

    def near(self, box: Box) -> list[int]:
        """The numbers of boxes that may have pixels in common with a box, in the order of adding."""
        return sorted({number for cell in self._cells(box) for number in self._members.get(cell, ())})

    def _cells(self, box: Box) -> Iterator[tuple[int, int]]:
        for row in range(box.top // self._cell, (box.bottom - 1) // self._cell + 1):
            for column in range(box.left // self._cell, (box.right - 1) // self._cell + 1):
                yield row, column


def _related(
    detections: Sequence[TileDetection], tiles: Sequence[Box]
) -> tuple[list[tuple[float, int, int]], list[tuple[int, int]]]:
    """(lower score, one, other) of the possible pairs of rule 1, and (piece, other) of those of rule 2."""
    partners, pieces = [], []
    for a, b in _touching_pairs(detections, max(max(tile.height, tile.width) for tile in tiles) // 4):
        one, other = detections[a].detection, detections[b].detection
        zone = tiles[detections[a].tile].common(tiles[detections[b].tile])
        shared = one.shared_pixels(other, zone)
        if not shared:
            continue
        areas = [int(np.count_nonzero(detection.inside(zone))) for detection in (one, other)]
        low, high = sorted((one.score, other.score))
        if shared > _SAME_OVER_UNION * (sum(areas) - shared):
            partners.append((low, a, b))
        elif shared >= _SAME_OVER_SMALLER * min(areas) and low >= _LEAST_SCORE_RATIO * high:
            pieces.append((a, b) if areas[0] < areas[1] else (b, a))
    return partners, pieces


def _touching_pairs(detections: Sequence[TileDetection], cell: int) -> Iterator[tuple[int, int]]:
    """Pairs of one label in two tiles whose boxes have pixels in common."""
    grid = BoxGrid(cell)
    for b, (detection, tile) in enumerate(detections):
        for a in grid.near(detection.box):
            other, other_tile = detections[a]
            is_pair = tile != other_tile and detection.label_id == other.label_id
            if is_pair and not detection.box.common(other.box).is_empty:
                yield a, b
        grid.add(b, detection.box)


class _Groups:
    """Numbers from 0 on, of which some are joined (disjoint sets)."""

    def __init__(self, count: int):
        self._parent = list(range(count))

    def join(self, a: int, b: int):
        self._parent[self._root(a)] = self._root(b)

    def all(self) -> list[list[int]]:
        members = defaultdict(list)
        for index in range(len(self._parent)):
            members[self._root(index)].append(index)
        return list(members.values())

    def _root(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]  # halves the way for the next time
            index = self._parent[index]
        return index
