"""Objects found in overlapping tiles, put together to the objects of the image.

An object that lies on several tiles is found in each, cut by the tiles' borders. Two finds of one label in two tiles
are one object if they agree where both tiles see the image, in the zone that the two tiles share:

1. the intersection of their masks in the zone is more than half of their union; or
2. one of them, which has no such partner in the other tile, touches a border of its tile inside the image, has fewer
   pixels in the zone, and most of them lie in the other. (A tile often sees several pieces of an object that is whole
   in the next one, or a sliver.)

One object's parts are united; its score is that of its largest part, the best view. What is cut by a border, has no
partner, and lies for the most part under a larger find of another tile and label is dropped: the other tile saw more.
Two objects that touch share hardly a pixel in the zone, so they stay two.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from m2f.inference.detection import Box, Detection

_SAME_OVER_UNION = 0.5
_SAME_OVER_SMALLER = 0.7
# A mask is predicted for cells of several pixels, so one that is cut may end this share of the tile before the border.
_BORDER_SHARE = 1 / 128


class _Find(NamedTuple):
    """A detection, its tile's number, and whether a border of the tile inside the image cuts it."""

    detection: Detection
    tile: int
    is_cut: bool


def merge_detections(
    tiles: Sequence[Box], detections: Sequence[Sequence[Detection]], size: tuple[int, int]
) -> list[Detection]:
    """The objects of an image, best score first.

    Args:
        tiles: that cover the image.
        detections: of each tile, in the image's pixels.
        size: (height, width) of the image.
    """
    finds = [
        _Find(detection, number, _is_cut(detection.box, tile, size))
        for number, (tile, found) in enumerate(zip(tiles, detections, strict=True))
        for detection in found
    ]
    of_tile: dict[int, list[int]] = defaultdict(list)
    for index, find in enumerate(finds):
        of_tile[find.tile].append(index)
    groups = _Groups(len(finds))
    zones = [
        (zone, of_tile[i], of_tile[j])
        for i, j in combinations(sorted(of_tile), 2)
        if not (zone := tiles[i].common(tiles[j])).is_empty
    ]
    for zone, first, second in zones:
        for a, b in _same_objects(finds, zone, first, second):
            groups.join(a, b)
    dropped = {
        index for _, first, second in zones for index in _hidden(finds, first, second) if groups.is_alone(index)
    }
    merged = [_united([finds[i].detection for i in group]) for group in groups.all() if not dropped >= set(group)]
    return sorted(merged, key=lambda detection: -detection.score)


def _is_cut(box: Box, tile: Box, size: tuple[int, int]) -> bool:
    near = max(2, round(max(tile.height, tile.width) * _BORDER_SHARE))
    return (
        (tile.left > 0 and box.left < tile.left + near)
        or (tile.top > 0 and box.top < tile.top + near)
        or (tile.right < size[1] and box.right > tile.right - near)
        or (tile.bottom < size[0] and box.bottom > tile.bottom - near)
    )


def _same_objects(
    finds: Sequence[_Find], zone: Box, first: Sequence[int], second: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Pairs of indices of finds, one of each tile, that are one object."""
    partnered, others = set(), []
    for a, b in _touching_pairs(finds, first, second, zone):
        one, other = finds[a].detection, finds[b].detection
        if one.label_id != other.label_id or not (shared := one.shared_pixels(other, zone)):
            continue
        areas = [int(np.count_nonzero(detection.inside(zone))) for detection in (one, other)]
        if shared > _SAME_OVER_UNION * (sum(areas) - shared):
            partnered |= {a, b}
            yield a, b
        elif shared >= _SAME_OVER_SMALLER * min(areas):
            others.append((a, b, a if areas[0] < areas[1] else b))
    for a, b, smaller in others:
        if finds[smaller].is_cut and smaller not in partnered:
            yield a, b


def _hidden(finds: Sequence[_Find], first: Sequence[int], second: Sequence[int]) -> Iterator[int]:
    """Finds that are cut and lie under a larger one of another label in the other tile."""
    for pair in _touching_pairs(finds, first, second):
        small, large = sorted(pair, key=lambda index: finds[index].detection.area)
        detection, other = finds[small].detection, finds[large].detection
        if not finds[small].is_cut or detection.label_id == other.label_id or detection.area == other.area:
            continue
        if detection.shared_pixels(other) >= _SAME_OVER_SMALLER * detection.area:
            yield small


def _touching_pairs(
    finds: Sequence[_Find], first: Sequence[int], second: Sequence[int], zone: Box | None = None
) -> Iterator[tuple[int, int]]:
    """Pairs whose boxes have pixels in common, in the zone if one is given."""
    boxes = np.array([finds[index].detection.box for index in second])
    for a in first:
        box = finds[a].detection.box
        box = box if zone is None else box.common(zone)
        common = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
        yield from ((a, second[place]) for place in np.flatnonzero((common > 0).all(1)))


def _united(parts: Sequence[Detection]) -> Detection:
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


class _Groups:
    """Numbers from 0 on, of which some are joined (disjoint sets)."""

    def __init__(self, count: int):
        self._parent = list(range(count))
        self._joined: set[int] = set()

    def join(self, a: int, b: int):
        self._joined |= {a, b}
        self._parent[self._root(a)] = self._root(b)

    def is_alone(self, index: int) -> bool:
        return index not in self._joined

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
