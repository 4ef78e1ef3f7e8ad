"""Segmenter: a checkpoint that segments images of all kinds, at their own size."""

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.inference.batch_pipeline import BatchPipeline
from m2f.inference.image_sources import name_of, read_image
from m2f.inference.memory_limits import check_memory_of_tiles, memory_errors
from m2f.inference.model_loading import choose_task, find_device, find_dtype, load_model
from m2f.inference.segmentation_result import SegmentationResult
from m2f.inference.task_decoding import TaskDecoder, ViewOutputs
from m2f.inference.tile_grid import check_tile, tile_boxes, tile_input_size
from m2f.inference.tile_merging import merge_detections
from m2f.inference.tile_stitching import SemanticStitching, stitch_panoptic
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

_INSTANCE_THRESHOLD = 0.5
_MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class View:
    """An image or a tile, ready for the model.

    item: what was read.
    image: upright RGB.
    inputs: the model's, for this view alone; None for an image that is to be cut into tiles.
    key: the padded shape; views of one shape may come together.
    """

    item: Any
    image: Image.Image
    name: str
    inputs: dict[str, torch.Tensor] | None
    key: Hashable

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.image.height, self.image.width


class Segmenter:
    """Segments images. `Segmenter.from_pretrained("folder")("image.jpg")` gives a `SegmentationResult`.

    Args:
        model: in evaluation mode, on its device.
        processor: of the same checkpoint; its `task` says what the model was trained for.
        task: "panoptic", "instance" or "semantic"; by default what the model was trained for. A model trained for
            panoptic can do all three.
        threshold: in [0, 1]: lowest score of an instance (0.5), or class probability above which a query is a panoptic
            segment (the processor's `panoptic_threshold`). Semantic maps have none.
        mask_threshold: in [0, 1]: mask probability from which a pixel belongs to a segment (0.5). Semantic maps have
            none.
        max_detections: (query, class) pairs that are considered for instances; by default as many as queries.
        tile: pixels; images that are higher or wider are cut into overlapping tiles of this size, and the tiles'
            results are merged, see `m2f.inference.tile_merging` and `tile_stitching`. The processor resizes a tile as
            it would an image of that size.
        tile_overlap: pixels that neighbouring tiles share at least, up to half of a tile; a quarter of it by default.
            Objects that are no longer are whole in one tile.
        batch_size: images or tiles of one padded shape that the model gets at a time.
        workers: threads that read and prepare images, and as many that make results of the outputs.

    Raises:
        ValueError: the model cannot do the task, or a value is outside its range.
    """

    def __init__(
        self,
        model: M2FForUniversalSegmentation,
        processor: M2FImageProcessor,
        task: str | None = None,
        *,
        threshold: float | None = None,
        mask_threshold: float | None = None,
        max_detections: int | None = None,
        tile: int | None = None,
        tile_overlap: int | None = None,
        batch_size: int = 1,
        workers: int = 2,
    ):
        self.model, self.processor = model, processor
        self.task = choose_task(task, processor.task, processor.thing_label_ids != [])
        thresholds = {"threshold": threshold, "mask_threshold": mask_threshold}
        _check_thresholds(self.task, thresholds)
        counts = {"batch_size": batch_size, "workers": workers, "max_detections": max_detections}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        default = _INSTANCE_THRESHOLD if self.task == "instance" else processor.panoptic_threshold
        self.decoder = TaskDecoder(
            processor,
            self.task,
            default if threshold is None else threshold,
            _MASK_THRESHOLD if mask_threshold is None else mask_threshold,
            max_detections,
        )
        self.tile, self.tile_overlap = tile, check_tile(tile, tile_overlap)
        self.batch_size, self.workers = batch_size, workers
        self.id2label = {int(label): name for label, name in model.config.id2label.items()}

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | os.PathLike,
        task: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        size: dict[str, int] | None = None,
        **settings: Any,
    ) -> "Segmenter":
        """A segmenter with a checkpoint of m2f or of transformers' mask2former.

        The latter does not say what it was trained for: it is taken for `task`, or for panoptic, with a warning.

        Args:
            checkpoint: folder or Hub id.
            task, settings: see the class.
            device: such as "cpu" or "cuda:1"; by default a GPU if there is one.
            dtype: of weights and computation, "float32" (default), "bfloat16" or "float16".
            size: of the image processor in place of the checkpoint's, such as {"shortest_edge": 800,
                "longest_edge": 1333}.

        Raises:
            OSError: the checkpoint cannot be found or read.
            ValueError: it does not fit, there is no such device or dtype, or see the class.
        """
        fields = {} if size is None else {"size": size}
        device, dtype = find_device(device), find_dtype(dtype)
        model, processor = load_model(checkpoint, task, device, dtype, **fields)
        return cls(model, processor, task, **settings)

    @property
    def things(self) -> list[int]:
        """Labels whose objects the model tells apart."""
        if self.processor.task == "semantic":
            return []
        fused = self.decoder.fused_labels(len(self.id2label)) if self.processor.task == "panoptic" else set()
        return sorted(set(self.id2label) - fused)

    def __call__(self, images: Any) -> SegmentationResult | list[SegmentationResult] | Iterator[SegmentationResult]:
        """Segments images; results are at each image's own size, EXIF orientation applied.

        Args:
            images: one image: path, URL, bytes, PIL image, or array or tensor of (H,W), (H,W,C) or (C,H,W) with C in
                1, 3, 4, in 0..255; a list, a tuple or a 4-d array of images; or an iterator of them.

        Returns:
            For one image its result, for a list a list, for an iterator an iterator that reads a few images ahead.

        Raises:
            ValueError: an image is damaged, holds other values, or is too large for the memory.
            OSError: an image does not exist.
        """
        if _is_one_image(images):
            return next(self._stream([images]))
        if isinstance(images, list | tuple | np.ndarray | torch.Tensor):
            return list(self._stream(images))
        return self._stream(images)

    def pipeline(
        self,
        read: Callable[[Any], tuple[Image.Image, str]],
        finish: Callable[[Any, SegmentationResult], Any] = lambda item, result: result,
    ) -> BatchPipeline:
        """Segments items of any kind, with reading and finishing in threads while the model computes.

        Args:
            read: gives an item's upright RGB image and its name.
            finish: makes of an item and its result what is wanted.
        """
        return BatchPipeline(
            prepare=lambda item: self._view(item, *read(item)),
            compute=self._compute,
            finish=lambda view, computed: finish(view.item, self._result(view, computed)),
            batch_size=self.batch_size,
            workers=self.workers,
        )

    def _stream(self, images: Iterable) -> Iterator[SegmentationResult]:
        pipeline = self.pipeline(lambda image: (read_image(image), name_of(image)))
        for outcome in pipeline.run_in_order(images):
            if outcome.error is not None:
                raise outcome.error
            yield outcome.result

    def _view(self, item: Any, image: Image.Image, name: str, input_size: tuple[int, int] | None = None) -> View:
        """
        Args:
            input_size: (height, width) to resize to, in place of what the processor's `size` says.
        """
        if input_size is None and self.tile is not None and max(image.size) > self.tile:
            return View(item, image, name, None, None)
        size = {} if input_size is None else {"size": dict(zip(("height", "width"), input_size, strict=True))}
        with memory_errors("the input"):
            inputs = dict(self.processor(image, return_tensors="pt", **size))
        return View(item, image, name, inputs, tuple(inputs["pixel_values"].shape))

    def _compute(self, views: Sequence[View]) -> list[ViewOutputs | SegmentationResult]:
        if views[0].inputs is None:
            return [self._segment_tiles(view) for view in views]
        parameter = next(self.model.parameters())
        inputs = {name: torch.cat([view.inputs[name] for view in views]) for name in views[0].inputs}
        with torch.inference_mode(), memory_errors("the model's computation"):
            outputs = self.model(
                pixel_values=inputs["pixel_values"].to(parameter.device, parameter.dtype),
                pixel_mask=inputs["pixel_mask"].to(parameter.device),
            )
        return ViewOutputs.split(outputs)

    def _result(self, view: View, computed: ViewOutputs | SegmentationResult) -> SegmentationResult:
        if isinstance(computed, SegmentationResult):
            return computed
        with memory_errors("the result"):
            if self.task == "instance":
                found = self.decoder.detections(computed, view.size)
                return SegmentationResult.from_detections(view.image, found, self.id2label, view.name)
            decode = self.decoder.panoptic if self.task == "panoptic" else self.decoder.semantic
            ids, infos = decode(computed, view.size)
            return SegmentationResult.from_map(view.image, self.task, ids, infos, self.id2label, view.name)

    def _segment_tiles(self, view: View) -> SegmentationResult:
        """A large image: its tiles go through a pipeline of their own."""
        check_memory_of_tiles(view.size)
        tiles = tile_boxes(view.size, self.tile, self.tile_overlap)

        def tile_view(tile):
            size = (tile.height, tile.width)
            if self.processor.do_resize:
                size = tile_input_size(size, self.tile, dict(self.processor.size))
            return self._view(tile, view.image.crop(tile), view.name, size)

        pipeline = BatchPipeline(
            tile_view, self._compute, self._tile_result, self.batch_size, self.workers, item_errors=()
        )
        outcomes = pipeline.run_in_order(tiles)
        with memory_errors("the result"):
            if self.task == "semantic":
                return self._stitched_semantic(view, tiles, outcomes)
            results = [_result_of(outcome) for outcome in outcomes]
            if self.task == "instance":
                found = merge_detections(tiles, results, view.size)
                return SegmentationResult.from_detections(view.image, found, self.id2label, view.name)
            fused = self.decoder.fused_labels(len(self.id2label))
            ids, infos = stitch_panoptic(tiles, results, view.size, self.tile_overlap, fused)
            return SegmentationResult.from_map(view.image, self.task, ids, infos, self.id2label, view.name)

    def _tile_result(self, view: View, outputs: ViewOutputs) -> Any:
        with memory_errors("the result"):
            if self.task == "instance":
                tile = view.item
                return [found.moved(tile.left, tile.top) for found in self.decoder.detections(outputs, view.size)]
            # Scores are large; they are made one tile at a time.
            return outputs if self.task == "semantic" else self.decoder.panoptic(outputs, view.size)

    def _stitched_semantic(self, view: View, tiles: Sequence, outcomes: Iterable) -> SegmentationResult:
        stitching = SemanticStitching(tiles, view.size, self.tile_overlap)
        for outcome in outcomes:
            tile = outcome.item
            stitching.add(tile, self.decoder.scores(_result_of(outcome), (tile.height, tile.width)))
        ids, infos = stitching.segments()
        return SegmentationResult.from_map(view.image, "semantic", ids, infos, self.id2label, view.name)


def _result_of(outcome: Any) -> Any:
    if outcome.error is not None:
        raise outcome.error
    return outcome.result


def _is_one_image(images: Any) -> bool:
    is_array = isinstance(images, np.ndarray | torch.Tensor)
    return isinstance(images, str | os.PathLike | bytes | bytearray | Image.Image) or (is_array and images.ndim < 4)


def _check_thresholds(task: str, thresholds: dict[str, float | None]):
    for name, value in thresholds.items():
        if value is None:
            continue
        if task == "semantic":
            raise ValueError(f"{name} {value} is given, but a semantic map has no threshold; leave it out")
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
