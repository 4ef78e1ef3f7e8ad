"""The panoptic segments of an image from those of its overlapping tiles."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from m2f.inference.detection import Box, Detection, detections_from_map, paint_ids
from m2f.inference.task_decoding import MappedSegments
from m2f.inference.tile_grid import tile_weight
from m2f.inference.tiled_instances import merge_detections
from m2f.inference.tiled_task import TiledTask


class TiledPanoptic(TiledTask):
    """The panoptic segments of an image in tiles."""

    def segments(self) -> MappedSegments:
        return stitch_panoptic(self.tiles, self._parts, self.size, self.overlap)


def stitch_panoptic(
    tiles: Sequence[Box], results: Sequence[MappedSegments], size: tuple[int, int], overlap: int
) -> MappedSegments:
    """The segments of an image from those of its tiles.

    Things are merged as instances. Stuff, whose segments were fused, is a map of labels: where tiles overlap, the
    label of the tile with the larger `tile_weight` among those that see stuff there. Things lie on stuff, better
    scores on worse; what no tile gives a segment is void. A stuff label's score is its best one.
    """
    stuff, detections = np.full(size, -1, np.int32), []
    scores: dict[int, float] = {}
    weights = np.zeros(size, np.float32)
    for tile, (ids, infos) in zip(tiles, results, strict=True):
        things = [info for info in infos if not info["was_fused"]]
        found = detections_from_map(ids, things)
        detections.append([detection.moved(tile.left, tile.top) for detection in found])
        label_of = np.full(max((info["id"] for info in infos), default=0) + 1, -1, np.int32)
        for info in (info for info in infos if info["was_fused"]):
            label_of[info["id"]] = info["label_id"]
            scores[info["label_id"]] = max(scores.get(info["label_id"], 0.0), info["score"])
        labels, weight = label_of[ids], tile_weight(tile, size, overlap)
        wins = (labels >= 0) & (weight > weights[tile.slices])
        stuff[tile.slices][wins] = labels[wins]
        weights[tile.slices][wins] = weight[wins]
    return _painted(stuff, scores, merge_detections(tiles, detections, size))


def _painted(stuff: np.ndarray, scores: Mapping[int, float], things: Sequence[Detection]) -> MappedSegments:
    """Things over stuff, and the segments of which something is visible."""
    ids = paint_ids(stuff.shape, things)
    infos: list[dict[str, Any]] = [
        {"id": number, "label_id": thing.label_id, "was_fused": False, "score": thing.score}
        for number, thing in enumerate(things, start=1)
    ]
    for label in sorted(scores):
        infos.append({"id": len(infos) + 1, "label_id": label, "was_fused": True, "score": scores[label]})
        ids[(ids == 0) & (stuff == label)] = len(infos)
    visible = np.bincount(ids.ravel(), minlength=len(infos) + 1) > 0
    visible[0] = False
    new_ids = (visible.cumsum() * visible).astype(np.int32)
    visible_infos = [{**info, "id": int(new_ids[info["id"]])} for info in infos if visible[info["id"]]]
    return MappedSegments(new_ids[ids], visible_infos)
