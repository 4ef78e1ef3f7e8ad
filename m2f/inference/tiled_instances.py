"""Objects found in overlapping tiles, put together to the objects of the image.

A detection is whole, or a border of its tile cuts it. Objects that are no longer than the overlap are whole in one
tile at least, and cut or whole in others; longer ones may be cut everywhere.

1. Cut detections that are parts of one object are united, see `cut_objects.group_parts`.
2. All that there is then, best score first, is kept or dropped. The score of what is cut counts half, united or not:
   the model saw less of it, so that a whole detection wins against a cut one of the same object. Dropped is
   - what has at least half of its pixels in those that were kept from other tiles: the same object again, or a blob
     of low score over several objects that are certain, or a part of what another tile saw whole;
   - what is nearly the same (intersection over union above 0.7) as one kept from the same tile. Otherwise the model
     saw both at once and told them apart, so both stay, as an object that lies on another.
   Detections of different labels do not exclude each other, but for cut ones that were not united: what the other
   tile saw of them, it may have taken for another class.

Scores themselves do not change.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from m2f.inference.cut_objects import BoxGrid, TileDetection, group_parts, is_cut, united
from m2f.inference.detection import Box, Detection
from m2f.inference.task_decoding import ViewOutputs
from m2f.inference.tiled_task import TiledTask

_CUT_SCORE_SHARE = 0.5
_TAKEN_SHARE = 0.5
_SAME_IN_TILE = 0.7


class TiledInstances(TiledTask):
    """The instances of an image in tiles."""

    def decode(self, tile: Box, outputs: ViewOutputs) -> list[Detection]:
        return [detection.moved(tile.left, tile.top) for detection in super().decode(tile, outputs)]

    def segments(self) -> list[Detection]:
        return merge_detections(self.tiles, self._parts, self.size)


class _Candidate(NamedTuple):
    """A whole detection, or what was made of cut ones.

    tiles: that it was found in.
    rank: score that decides the order.
    is_lone_part: whether it is cut and was not united.
    """

    detection: Detection
    area: int
    tiles: frozenset[int]
    rank: float
    is_lone_part: bool


def merge_detections(
    tiles: Sequence[Box], detections: Sequence[Sequence[Detection]], size: tuple[int, int]
) -> list[Detection]:
    """The objects of an image, best score first.

    Args:
        tiles: that cover the image.
        detections: of each tile, in the image's pixels.
        size: (height, width) of the image.
    """
    whole: list[TileDetection] = []
    cut: list[TileDetection] = []
    for number, (tile, found) in enumerate(zip(tiles, detections, strict=True)):
        for detection in found:
            (cut if is_cut(detection.box, tile, size) else whole).append(TileDetection(detection, number))
    groups = [[cut[position] for position in group] for group in group_parts(cut, tiles)] if cut else []
    # A whole detection before a cut one of the same rank.
    candidates = [_candidate([part], False) for part in whole] + [_candidate(group, True) for group in groups]
    cell = max(max(tile.height, tile.width) for tile in tiles) // 4
    return sorted(_winners(candidates, cell), key=lambda detection: -detection.score)


def _candidate(parts: Sequence[TileDetection], are_cut: bool) -> _Candidate:
    detection = united([part.detection for part in parts])
    rank = detection.score * (_CUT_SCORE_SHARE if are_cut else 1)
    tiles = frozenset(part.tile for part in parts)
    return _Candidate(detection, detection.area, tiles, rank, are_cut and len(parts) == 1)


def _winners(candidates: Sequence[_Candidate], cell: int) -> list[Detection]:
    kept: list[_Candidate] = []
    grid = BoxGrid(cell)
    for candidate in sorted(candidates, key=lambda candidate: -candidate.rank):
        if not _is_taken(candidate, (kept[number] for number in grid.near(candidate.detection.box))):
            grid.add(len(kept), candidate.detection.box)
            kept.append(candidate)
    return [candidate.detection for candidate in kept]


def _is_taken(candidate: _Candidate, kept: Iterable[_Candidate]) -> bool:
    """
    Args:
        kept: those near it.
    """
    detection, area = candidate.detection, candidate.area
    left, top = detection.box[:2]
    taken = np.zeros(detection.pixels.shape, bool)
    for other in kept:
        common = detection.box.common(other.detection.box)
        has_label = detection.label_id == other.detection.label_id
        if common.is_empty or not (has_label or candidate.is_lone_part):
            continue
        if candidate.tiles.isdisjoint(other.tiles):
            taken[common.moved(-left, -top).slices] |= other.detection.inside(common)
        elif has_label and min(area, other.area) > _SAME_IN_TILE * max(area, other.area):
            shared = detection.shared_pixels(other.detection)
            if shared > _SAME_IN_TILE * (area + other.area - shared):
                return True
    return bool(np.count_nonzero(taken & detection.pixels) >= _TAKEN_SHARE * area)
