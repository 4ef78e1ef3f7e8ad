"""Semantic scores and panoptic segments of overlapping tiles, put together to a map of the image."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from m2f.inference.detection import Box, Detection, detections_from_map
from m2f.inference.tile_merging import merge_detections


def tile_weight(tile: Box, size: tuple[int, int], overlap: int) -> np.ndarray:
    """(tile.height, tile.width) float32 weights above 0, up to 1, of a tile's pixels: 1 in the middle, falling over
    `overlap` pixels to the borders inside the image, near which a tile sees little of what is around."""
    rows = _ramp(tile.height, tile.top > 0, tile.bottom < size[0], overlap)
    columns = _ramp(tile.width, tile.left > 0, tile.right < size[1], overlap)
    return np.outer(rows, columns)


class SemanticStitching:
    """The semantic map of an image from its tiles' scores: where tiles overlap, the scores are averaged with
    `tile_weight`, and the best class is taken of that.

    Only the scores of pixels for which a tile is still missing are kept, so that an image with many classes fits into
    memory.

    Args:
        tiles: that cover the image.
        size: (height, width) of the image.
        overlap: pixels, over which the weights fall.
    """

    def __init__(self, tiles: Sequence[Box], size: tuple[int, int], overlap: int):
        self.labels = np.full(size, -1, np.int32)
        self._size, self._overlap = size, overlap
        self._edges = [
            sorted({edge for tile in tiles for edge in edges(tile)})
            for edges in (lambda tile: (tile.top, tile.bottom), lambda tile: (tile.left, tile.right))
        ]
        self._missing = Counter(cell for tile in tiles for cell in self._cells(tile))  # tiles that were not added yet
        self._sums: dict[Box, Tensor] = {}  # of weighted scores, of cells that miss a tile
        self._areas: dict[int, int] = {}
        self._shares: dict[int, float] = {}

    def add(self, tile: Box, scores: Tensor):
        """
        Args:
            tile: one of the tiles, each of which is to be added once.
            scores: (K, tile.height, tile.width), 0 or more.
        """
        weight = torch.from_numpy(tile_weight(tile, self._size, self._overlap)).to(scores.device)
        for cell in self._cells(tile):
            place = (slice(None), *cell.moved(-tile.left, -tile.top).slices)
            total = self._sums.pop(cell, 0) + scores[place] * weight[place[1:]]
            self._missing[cell] -= 1
            if self._missing[cell]:
                self._sums[cell] = total
            else:
                self._decide(cell, total)

    def segments(self) -> tuple[np.ndarray, list[dict]]:
        """(H, W) int32 ids from 1, and a dict with id, label_id, was_fused and score for each; as `semantic_segments`
        gives them for an image that is seen as a whole."""
        present = sorted(self._areas)
        id_of = np.zeros(max(present, default=0) + 1, np.int32)
        id_of[present] = np.arange(1, len(present) + 1)
        return id_of[self.labels], [
            {"id": number, "label_id": label, "was_fused": True, "score": self._shares[label] / self._areas[label]}
            for number, label in enumerate(present, start=1)
        ]

    def _cells(self, tile: Box) -> list[Box]:
        """The parts of a tile that are each covered by the same tiles everywhere."""
        rows = [edge for edge in self._edges[0] if tile.top <= edge <= tile.bottom]
        columns = [edge for edge in self._edges[1] if tile.left <= edge <= tile.right]
        return [
            Box(left, top, right, bottom)
            for top, bottom in zip(rows, rows[1:], strict=False)
            for left, right in zip(columns, columns[1:], strict=False)
        ]

    def _decide(self, cell: Box, scores: Tensor):
        best, labels = scores.max(0)
        share = best / scores.sum(0).clamp(min=torch.finfo(torch.float32).tiny)
        areas = labels.flatten().bincount(minlength=len(scores))
        sums = labels.flatten().bincount(share.flatten().double(), minlength=len(scores))
        for label in areas.nonzero().flatten().tolist():
            self._areas[label] = self._areas.get(label, 0) + int(areas[label])
            self._shares[label] = self._shares.get(label, 0.0) + float(sums[label])
        self.labels[cell.slices] = labels.cpu().numpy()


class PanopticTile(NamedTuple):
    """What `post_process_panoptic_segmentation` gives for a tile: (h, w) ids, void 0, and the segments' infos."""

    ids: np.ndarray
    infos: Sequence[Mapping[str, Any]]


def stitch_panoptic(
    tiles: Sequence[Box],
    results: Sequence[PanopticTile],
    size: tuple[int, int],
    overlap: int,
    fused_labels: Collection[int],
) -> tuple[np.ndarray, list[dict]]:
    """The segments of an image from those of its tiles.

    Things are merged as instances. Stuff is a map of labels: where tiles overlap, the label of the tile with the
    larger `tile_weight` among those that see stuff there. Things lie on stuff, better scores on worse; what no tile
    gives a segment is void. A stuff label's score is its best one.

    Args:
        fused_labels: those of stuff.

    Returns:
        (H, W) int32 ids, void 0, and a dict with id from 1, label_id, was_fused and score for each.
    """
    stuff, scores, detections = np.full(size, -1, np.int32), {}, []
    weights = np.zeros(size, np.float32)
    for tile, (ids, infos) in zip(tiles, results, strict=True):
        things = [info for info in infos if info["label_id"] not in fused_labels]
        found = detections_from_map(ids, things)
        detections.append([detection.moved(tile.left, tile.top) for detection in found])
        stuff_infos = [info for info in infos if info["label_id"] in fused_labels]
        label_of = np.full(max((info["id"] for info in infos), default=0) + 1, -1, np.int32)
        for info in stuff_infos:
            label_of[info["id"]] = info["label_id"]
            scores[info["label_id"]] = max(scores.get(info["label_id"], 0.0), info["score"])
        labels, weight = label_of[ids], tile_weight(tile, size, overlap)
        wins = (labels >= 0) & (weight > weights[tile.slices])
        stuff[tile.slices][wins] = labels[wins]
        weights[tile.slices][wins] = weight[wins]
    return _painted(stuff, scores, merge_detections(tiles, detections, size))


def _painted(
    stuff: np.ndarray, scores: Mapping[int, float], things: Sequence[Detection]
) -> tuple[np.ndarray, list[dict]]:
    """Things over stuff, and the segments of which something is visible."""
    ids = paint_ids(stuff.shape, things)
    infos = [
        {"id": number, "label_id": thing.label_id, "was_fused": False, "score": thing.score}
        for number, thing in enumerate(things, start=1)
    ]
    for label in sorted(scores):
        infos.append({"id": len(infos) + 1, "label_id": label, "was_fused": True, "score": scores[label]})
        ids[(ids == 0) & (stuff == label)] = len(infos)
    visible = np.bincount(ids.ravel(), minlength=len(infos) + 1) > 0
    visible[0] = False
    new_ids = (visible.cumsum() * visible).astype(np.int32)
    return new_ids[ids], [{**info, "id": int(new_ids[info["id"]])} for info in infos if visible[info["id"]]]


def paint_ids(size: tuple[int, int], detections: Sequence[Detection]) -> np.ndarray:
    """(H, W) int32 map of detections, numbered from 1 in their order, 0 where there is none; the first on top."""
    ids = np.zeros(size, np.int32)
    for number in range(len(detections), 0, -1):
        detection = detections[number - 1]
        ids[detection.box.slices][detection.pixels] = number
    return ids


def _ramp(length: int, falls_at_start: bool, falls_at_end: bool, overlap: int) -> np.ndarray:
    """(length,) in (0, 1], 1 where nothing falls."""
    places = np.arange(length, dtype=np.float32)
    from_start = (places + 0.5) / max(overlap, 1) if falls_at_start else np.ones(length, np.float32)
    from_end = (length - places - 0.5) / max(overlap, 1) if falls_at_end else np.ones(length, np.float32)
    return np.minimum(np.minimum(from_start, from_end), 1).astype(np.float32)
