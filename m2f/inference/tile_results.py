"""What the tiles of an image give for a task, put together to what the image gives."""

from collections.abc import Sequence
from typing import Any

from m2f.inference.detection import Box, Detection
from m2f.inference.task_decoding import Found, TaskDecoder, ViewOutputs
from m2f.inference.tile_merging import merge_detections
from m2f.inference.tile_stitching import PanopticTile, SemanticStitching, stitch_panoptic


class TileResults:
    """What all tasks have in common.

    Args:
        decoder: of the task.
        tiles: that cover the image.
        size: (height, width) of the image.
        overlap: pixels that neighbouring tiles share.
    """

    def __init__(self, decoder: TaskDecoder, tiles: Sequence[Box], size: tuple[int, int], overlap: int):
        self.decoder, self.tiles, self.size, self.overlap = decoder, tiles, size, overlap
        self._parts: list[Any] = []

    def decode(self, tile: Box, outputs: ViewOutputs) -> Any:
        """The part of a tile; called from several threads."""
        return self.decoder.decode(outputs, (tile.height, tile.width))

    def add(self, tile: Box, part: Any):
        """Keep a part; they come in the order of the tiles."""
        self._parts.append(part)

    def found(self) -> Found:
        """What the image gives, when the parts of all tiles are there."""
        raise NotImplementedError


class InstanceTiles(TileResults):
    """See `tile_merging`."""

    def decode(self, tile: Box, outputs: ViewOutputs) -> list[Detection]:
        return [detection.moved(tile.left, tile.top) for detection in super().decode(tile, outputs)]

    def found(self) -> list[Detection]:
        return merge_detections(self.tiles, self._parts, self.size)


class PanopticTiles(TileResults):
    """See `tile_stitching`."""

    def found(self) -> PanopticTile:
        fused = self.decoder.fused_labels()
        return PanopticTile(*stitch_panoptic(self.tiles, self._parts, self.size, self.overlap, fused))


class SemanticTiles(TileResults):
    """See `tile_stitching`. Scores are large; they are made one tile at a time."""

    def __init__(self, decoder: TaskDecoder, tiles: Sequence[Box], size: tuple[int, int], overlap: int):
        super().__init__(decoder, tiles, size, overlap)
        self._stitching = SemanticStitching(tiles, size, overlap)

    def decode(self, tile: Box, outputs: ViewOutputs) -> ViewOutputs:
        return outputs

    def add(self, tile: Box, part: ViewOutputs):
        self._stitching.add(tile, self.decoder.scores(part, (tile.height, tile.width)))

    def found(self) -> PanopticTile:
        return PanopticTile(*self._stitching.segments())


TILE_RESULTS = {"instance": InstanceTiles, "panoptic": PanopticTiles, "semantic": SemanticTiles}
