"""The semantic map of an image from the scores of its overlapping tiles."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m2f.inference.detection import Box
from m2f.inference.task_decoding import MappedSegments, TaskDecoder, ViewOutputs
from m2f.inference.tile_grid import tile_weight
from m2f.inference.tiled_task import TiledTask


class TiledSemantic(TiledTask):
    """The semantic map of an image in tiles. Scores are large; they are made one tile at a time."""

    def __init__(self, decoder: TaskDecoder, tiles: Sequence[Box], size: tuple[int, int], overlap: int):
        super().__init__(decoder, tiles, size, overlap)
        self._stitching = SemanticStitching(tiles, size, overlap)

    def decode(self, tile: Box, outputs: ViewOutputs) -> ViewOutputs:
        return outputs

    def add(self, tile: Box, part: ViewOutputs):
        self._stitching.add(tile, self.decoder.scores(part, (tile.height, tile.width)))

    def segments(self) -> MappedSegments:
        return self._stitching.segments()


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

    def segments(self) -> MappedSegments:
        """A segment for each class that has a pixel, as `semantic_segments` gives them for an image that is seen as a
        whole."""
        present = sorted(self._areas)
        id_of = np.zeros(max(present, default=0) + 1, np.int32)
        id_of[present] = np.arange(1, len(present) + 1)
        infos = [
            {"id": number, "label_id": label, "was_fused": True, "score": self._shares[label] / self._areas[label]}
            for number, label in enumerate(present, start=1)
        ]
        return MappedSegments(id_of[self.labels], infos)

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
