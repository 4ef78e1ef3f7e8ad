"""An image in tiles for metrics: what `Segmenter` finds, for several tasks from one pass, in the forms of
post-processing."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from m2f.image_processing.band_image import PixelImage, picture_of
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.inference.batch_limit import AUTO, BatchLimit
from m2f.inference.detection import Detection
from m2f.inference.segmentation_result import SegmentationResult
from m2f.inference.task_decoding import MappedSegments, TaskSegments
from m2f.inference.view_segmentation import ViewSegmentation
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.validation.task_measurement import measuring_decoder

_WORKERS = 2  # threads that prepare tiles


class TiledPredictor:
    """Predicts images through the steps of `Segmenter`, in tiles where they are larger.

    Args:
        model: in evaluation mode, on its device when the first image comes.
        tasks: of "panoptic", "instance" and "semantic", that the model can do.
        threshold: lowest score of an instance; 0 for all, as average precision needs.
        max_detections: instances of an image that are given, the best ones. Of a tile, all take part in the merging.
        tile, tile_overlap: pixels, see `Segmenter`.
        batch_size: tiles that the model gets at a time, or "auto", as for `Segmenter`.
    """

    def __init__(
        self,
        model: M2FForUniversalSegmentation,
        processor: M2FImageProcessor,
        tasks: Sequence[str],
        *,
        threshold: float,
        max_detections: int,
        tile: int,
        tile_overlap: int,
        batch_size: int | str = AUTO,
    ):
        self.id2label = {int(label): name for label, name in model.config.id2label.items()}
        self.max_detections = max_detections
        decoders = [measuring_decoder(processor, task, threshold, None) for task in tasks]
        limit = BatchLimit(batch_size, model)
        self._views = ViewSegmentation(model, processor, decoders, tile, tile_overlap, limit, _WORKERS)

    def __call__(self, image: PixelImage) -> dict[str, Any]:
        """For each task what the processor's post-processing gives for it: instances with `return_coco_annotation`,
        and the map of segments or of labels.

        Raises:
            ValueError: the image is too large for the memory.
        """
        view = self._views.prepare(None, image, "")
        (computed,) = self._views.compute([view])
        found = self._views.segments(view, computed)
        return {
            decoder.task: self._prediction(decoder.task, picture_of(image), segments)
            for decoder, segments in zip(self._views.decoders, found, strict=True)
        }

    def _prediction(self, task: str, image: Image.Image, segments: TaskSegments) -> Any:
        if not isinstance(segments, MappedSegments):
            return self._instances(image, segments[: self.max_detections])
        if task == "panoptic":
            return {"segmentation": torch.from_numpy(segments.ids), "segments_info": list(segments.infos)}
        result = SegmentationResult.from_segments(image, task, segments, self.id2label)
        return torch.from_numpy(result.label_map).long()

    def _instances(self, image: Image.Image, found: Sequence[Detection]) -> dict[str, Any]:
        segments = SegmentationResult.from_detections(image, found, self.id2label).segments
        return {
            "segmentation": [segment.rle for segment in segments],
            "segments_info": [
                {"id": number, "label_id": segment.label_id, "was_fused": False, "score": segment.score}
                for number, segment in enumerate(segments)
            ],
        }
