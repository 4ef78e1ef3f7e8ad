"""Segmenter: a checkpoint that segments images of all kinds, at their own size."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from m2f.image_processing.band_image import PixelImage, check_bands, picture_of
from m2f.image_processing.image_forms import is_array_form, is_file_form, known_form
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.post_processing_mixin import MASK_THRESHOLD
from m2f.image_processing.tile_setting import choose_tile
from m2f.image_processing.white_level import WhiteLevel, check_white_level
from m2f.inference.batch_limit import AUTO, BatchLimit
from m2f.inference.batch_pipeline import BatchPipeline
from m2f.inference.image_sources import name_of, read_image
from m2f.inference.memory_limits import memory_errors
from m2f.inference.model_loading import choose_task, find_device, find_dtype, load_model, told_apart
from m2f.inference.segmentation_result import SegmentationResult
from m2f.inference.task_decoding import TaskDecoder
from m2f.inference.view_segmentation import View, ViewSegmentation
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation


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
            results are put together, see `m2f.inference.tiled_instances`, `tiled_panoptic` and `tiled_semantic`. The
            processor resizes a tile as it would an image of that size. By default the processor's `tile`, which most
            checkpoints do not have; 0 for no tiles.
        tile_overlap: pixels that neighbouring tiles share at least, up to half of a tile; by default the processor's
            `tile_overlap` with its tile, and else a quarter of the tile. Objects that are no longer are whole in one
            tile.
        white_level: which value is white in images of more than 8 bits: a number such as 4095, "type", "data" or
            "auto", see `m2f.image_processing.white_level`; by default the processor's, which is mostly "auto": where
            white has to be guessed, one warning says so. It is found for an image as a whole, tiles or not.
        bands: numbers from 1 of the channels that pictures show as red, green and blue, or of one that they show as
            grey; by default the first three, or the first. A result's `image` is of these.
        batch_size: images or tiles of one padded shape that the model gets at a time. "auto": small ones together, up
            to what makes them quicker and takes little memory, see `m2f.inference.batch_limit`; of an iterator each
            image by itself, so that its result need not wait for others.
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
        white_level: WhiteLevel = None,
        bands: Sequence[int] | None = None,
        batch_size: int | str = AUTO,
        workers: int = 2,
    ):
        self.model, self.processor = model, processor
        self.id2label = {int(label): name for label, name in model.config.id2label.items()}
        self.task = choose_task(task, processor.task, processor.thing_label_ids != [])
        thresholds = {"threshold": threshold, "mask_threshold": mask_threshold}
        _check_thresholds(self.task, thresholds)
        counts = {"workers": workers, "max_detections": max_detections}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        mask_threshold = MASK_THRESHOLD if mask_threshold is None else mask_threshold
        self.decoder = TaskDecoder(processor, self.task, threshold, mask_threshold, max_detections)
        self.tile, self.tile_overlap = choose_tile(tile, tile_overlap, processor.tile, processor.tile_overlap)
        self.white_level = processor.white_level if white_level is None else check_white_level(white_level)
        self.num_channels = processor.num_channels
        self.bands = check_bands(bands, self.num_channels)  # from 0
        self.batch_limit, self.workers = BatchLimit(batch_size, model), workers
        tiling = (self.tile, self.tile_overlap, self.batch_limit, workers)
        self._views = ViewSegmentation(model, processor, [self.decoder], *tiling)

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | os.PathLike | None = None,
        task: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        size: dict[str, int] | None = None,
        **settings: Any,
    ) -> "Segmenter":
        """A segmenter with a checkpoint of m2f or of transformers' mask2former.

        The latter does not say what it was trained for: it is taken for `task`, or for panoptic, with a warning.

        Args:
            checkpoint: folder, Hub id or name of a bundled checkpoint; without one the bundled "nuclei", see
                `checkpoint_location` in m2f.checkpoints.bundled_checkpoint.
            task, settings: see the class.
            device: such as "cpu" or "cuda:1"; by default a GPU if there is one.
            dtype: of weights and computation, "float32" (default), "bfloat16" or "float16".
            size: of the image processor in place of the checkpoint's, such as {"shortest_edge": 800,
                "longest_edge": 1333}.

        Raises:
            OSError: the checkpoint cannot be found or read.
            ValueError: it does not fit, there is no such device or dtype, or see the class.
        """
        fields: dict[str, Any] = {} if size is None else {"size": size}
        device, dtype = find_device(device), find_dtype(dtype)
        model, processor = load_model(checkpoint, task, device, dtype, **fields)
        return cls(model, processor, task, **settings)

    @property
    def batch_size(self) -> int | str:
        return self.batch_limit.batch_size

    @property
    def things(self) -> list[int]:
        """Labels whose objects the model tells apart."""
        return told_apart(self.processor, self.id2label)

    def __call__(self, images: Any) -> SegmentationResult | list[SegmentationResult] | Iterator[SegmentationResult]:
        """Segments images; results are at each image's own size, EXIF orientation applied.

        Args:
            images: one image: path, URL, bytes, file object opened for bytes, PIL image, or array, tensor or object
                with `__array__` of (H,W), (H,W,C) or (C,H,W) with C in 1, 3, 4, or else the processor's
                `num_channels`, in 0..255 or 16 bits; a list, a tuple or a 4-d array of images; or an iterator of them.

        Returns:
            For one image its result, for a list a list, for an iterator an iterator that reads a few images ahead.

        Raises:
            ValueError: an image is damaged, holds other values, or is too large for the memory.
            OSError: an image does not exist.
        """
        images = known_form(images) if is_array_form(images) else images
        if _is_one_image(images):
            return next(self._stream([images]))
        if isinstance(images, list | tuple | np.ndarray | torch.Tensor):
            return list(self._stream(images))
        return self._stream(images, waits=False)

    def pipeline(
        self,
        read: Callable[[Any], tuple[PixelImage, str]],
        finish: Callable[[Any, SegmentationResult], Any] = lambda item, result: result,
        waits: bool = True,
    ) -> BatchPipeline:
        """Segments items of any kind, with reading and finishing in threads while the model computes.

        Args:
            read: gives an item's upright image, as `read_image` does, and its name.
            finish: makes of an item and its result what is wanted.
            waits: whether an item may wait for others that are read after it, where `batch_size` is "auto".
        """
        return BatchPipeline(
            prepare=lambda item: self._views.prepare(item, *read(item)),
            compute=self._views.compute,
            finish=lambda view, computed: finish(view.item, self._result(view, computed)),
            batch_size=self.batch_limit if waits or not self.batch_limit.is_auto else 1,
            workers=self.workers,
        )

    def read(self, image: Any) -> PixelImage:
        """The image as the model is to get it; see `read_image`."""
        return read_image(image, self.white_level, self.num_channels)

    def _stream(self, images: Iterable, waits: bool = True) -> Iterator[SegmentationResult]:
        pipeline = self.pipeline(lambda image: (self.read(image), name_of(image)), waits=waits)
        for outcome in pipeline.run_in_order(images):
            if outcome.error is not None:
                raise outcome.error
            yield outcome.result

    def _result(self, view: View, computed: Any) -> SegmentationResult:
        (segments,) = self._views.segments(view, computed)
        with memory_errors("the result"):
            picture = picture_of(view.image, self.bands)
            return SegmentationResult.from_segments(picture, self.task, segments, self.id2label, view.name)


def _is_one_image(images: Any) -> bool:
    if isinstance(images, np.ndarray | torch.Tensor):
        is_list = isinstance(images, np.ndarray) and images.dtype.kind in "OU"  # of paths and other objects
        return images.ndim < 4 and not is_list
    return is_file_form(images)


def _check_thresholds(task: str, thresholds: dict[str, float | None]):
    for name, value in thresholds.items():
        if value is None:
            continue
        if task == "semantic":
            raise ValueError(f"{name} {value} is given, but a semantic map has no threshold; leave it out")
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
