"""A model on whole images and on the tiles of large ones, for one task or for several from one pass."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from m2f.image_processing.band_image import PixelImage
from m2f.image_processing.file_settings import pad_size_in_use
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.image_threads import map_in_threads
from m2f.inference.batch_limit import BatchLimit
from m2f.inference.batch_pipeline import BatchPipeline, ItemOutcome
from m2f.inference.detection import Box
from m2f.inference.memory_limits import check_memory_of_tiles, memory_errors
from m2f.inference.task_decoding import TaskDecoder, TaskSegments, ViewOutputs
from m2f.inference.tile_grid import tile_boxes, tile_input_size
from m2f.inference.tiled_instances import TiledInstances
from m2f.inference.tiled_panoptic import TiledPanoptic
from m2f.inference.tiled_semantic import TiledSemantic
from m2f.inference.tiled_task import TiledTask
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

_TILED: dict[str, type[TiledTask]] = {"instance": TiledInstances, "panoptic": TiledPanoptic, "semantic": TiledSemantic}


@dataclass(frozen=True)
class View:
    """An image or a tile, ready for the model.

    item: what was read.
    image: upright.
    inputs: the model's, for this view alone; None for an image that is to be cut into tiles.
    key: the padded shape; views of one shape may come together.
    tiles: the first ones of an image that is to be cut, as many as the model gets at a time, so that it need not wait.
    """

    item: Any
    image: PixelImage
    name: str
    inputs: dict[str, torch.Tensor] | None
    key: Hashable
    tiles: Sequence["View"] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.image.height, self.image.width


@dataclass(frozen=True)
class TiledOutputs:
    """What the model gives for an image in tiles.

    results: of the tasks, with the parts of the tiles but for the last ones.
    last: those tiles, as many as the model got together, whose parts are made while it has other images.
    """

    results: Sequence[TiledTask]
    last: Sequence[tuple[Box, ViewOutputs]]


@dataclass(frozen=True)
class ViewSegmentation:
    """The steps from an image to what is found in it. `prepare` and `segments` may run in threads.

    Args:
        model: in evaluation mode, on its device.
        decoders: of the tasks that are wanted.
        tile: pixels; images that are higher or wider are cut into tiles. None: no image is.
        tile_overlap: pixels that neighbouring tiles share at least.
        batch_limit: tiles that the model gets at a time.
        workers: threads that prepare tiles, and as many that decode them.
    """

    model: M2FForUniversalSegmentation
    processor: M2FImageProcessor
    decoders: Sequence[TaskDecoder]
    tile: int | None
    tile_overlap: int
    batch_limit: BatchLimit
    workers: int

    def prepare(self, item: Any, image: PixelImage, name: str, input_size: tuple[int, int] | None = None) -> View:
        """
        Args:
            input_size: (height, width) to resize to, in place of what the processor's `size` says.
        """
        if input_size is None and self.tile is not None and max(image.size) > self.tile:
            return View(item, image, name, None, None, self._first_tiles(image, name))
        sizes: dict[str, Any] = {}
        if input_size is not None:
            # Of the scale that the processor's size says, so that a canvas of its file holds it.
            pad_size = pad_size_in_use(self.processor, {})
            sizes = {"size": dict(zip(("height", "width"), input_size, strict=True))}
            sizes["pad_size"] = pad_size and dict(pad_size)
        with memory_errors("the input"):
            inputs = dict(self.processor(image, return_tensors="pt", **sizes))
        return View(item, image, name, inputs, tuple(inputs["pixel_values"].shape))

    def compute(self, views: Sequence[View]) -> Sequence[ViewOutputs | TiledOutputs]:
        """The model's outputs for each of some views of one `key`."""
        if views[0].inputs is None:
            return [self._outputs_of_tiles(view) for view in views]
        parameter = next(self.model.parameters())
        given = [view.inputs for view in views if view.inputs is not None]
        inputs = {name: torch.cat([view_inputs[name] for view_inputs in given]) for name in given[0]}
        with torch.inference_mode(), memory_errors("the model's computation"):
            outputs = self.model(
                pixel_values=inputs["pixel_values"].to(parameter.device, parameter.dtype),
                pixel_mask=inputs["pixel_mask"].to(parameter.device),
            )
        return ViewOutputs.split(outputs)

    def segments(self, view: View, computed: ViewOutputs | TiledOutputs) -> list[TaskSegments]:
        """What each decoder's task asks for, at the size of the view."""
        with memory_errors("the result"):
            if isinstance(computed, ViewOutputs):
                return [decoder.decode(computed, view.size) for decoder in self.decoders]
            parts = map_in_threads(partial(_decode, computed.results), *zip(*computed.last, strict=True))
            _add(computed.results, [tile for tile, _ in computed.last], parts)
            return [result.segments() for result in computed.results]

    def _outputs_of_tiles(self, view: View) -> TiledOutputs:
        """The tiles go through a pipeline of their own."""
        check_memory_of_tiles(view.size)
        tiles = self._tile_boxes(view.image)
        assert self.tile is not None  # or no image would be cut
        results = [_TILED[decoder.task](decoder, tiles, view.size, self.tile_overlap) for decoder in self.decoders]
        ready = {tile_view.item: tile_view for tile_view in view.tiles}
        last = set(tiles[-len(ready) :])
        kept: list[tuple[Box, ViewOutputs]] = []

        def prepare(tile: Box) -> View:
            return ready.pop(tile, None) or self._tile_view(view.image, view.name, tile)

        def decode(tile_view: View, outputs: ViewOutputs) -> list | ViewOutputs:
            with memory_errors("the result"):
                return outputs if tile_view.item in last else _decode(results, tile_view.item, outputs)

        pipeline = BatchPipeline(prepare, self.compute, decode, self.batch_limit, self.workers, item_errors=())
        with memory_errors("the result"):
            for outcome in pipeline.run_in_order(tiles):
                found = _result_of(outcome)
                if isinstance(found, ViewOutputs):
                    kept.append((outcome.item, found))
                else:
                    _add(results, [outcome.item], [found])
        return TiledOutputs(results, kept)

    def _first_tiles(self, image: PixelImage, name: str) -> list[View]:
        tiles = self._tile_boxes(image)
        first = self._tile_view(image, name, tiles[0])
        together = tiles[1 : self.batch_limit(first.key)]
        return [first, *map_in_threads(partial(self._tile_view, image, name), together)]

    def _tile_view(self, image: PixelImage, name: str, tile: Box) -> View:
        return self.prepare(tile, image.crop(tile), name, self._tile_input_size(tile))

    def _tile_boxes(self, image: PixelImage) -> list[Box]:
        assert self.tile is not None  # or no image would be cut
        return tile_boxes((image.height, image.width), self.tile, self.tile_overlap)

    def _tile_input_size(self, tile: Box) -> tuple[int, int]:
        size = (tile.height, tile.width)
        if not self.processor.do_resize:
            return size
        assert self.tile is not None  # or there would be no tiles
        return tile_input_size(size, self.tile, dict(self.processor.size))


def _decode(results: Sequence[TiledTask], tile: Box, outputs: ViewOutputs) -> list:
    """The part of a tile for each task."""
    return [result.decode(tile, outputs) for result in results]


def _add(results: Sequence[TiledTask], tiles: Sequence[Box], parts: Sequence[list]):
    for tile, of_tasks in zip(tiles, parts, strict=True):
        for result, part in zip(results, of_tasks, strict=True):
            result.add(tile, part)


def _result_of(outcome: ItemOutcome) -> Any:
    if outcome.error is not None:
        raise outcome.error
    return outcome.result
