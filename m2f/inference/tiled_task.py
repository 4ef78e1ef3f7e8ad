"""What the tiles of an image give for a task, put together to what the image gives."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from m2f.inference.detection import Box
from m2f.inference.task_decoding import TaskDecoder, TaskSegments, ViewOutputs


class TiledTask(ABC):
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

    @abstractmethod
    def segments(self) -> TaskSegments:
        """What the image gives, when the parts of all tiles are there."""
