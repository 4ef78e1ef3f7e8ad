"""m2f's checkpoints in SAHI (https://github.com/obss/sahi), which cuts images into slices, and knows transformers'
models by the names of their classes: `get_sliced_prediction("large.jpg", SahiModel("nuclei"), slice_height=512)`.
"""

from typing import Any

import numpy as np
from sahi.models.base import DetectionModel
from sahi.prediction import ObjectPrediction
from sahi.utils.compatibility import fix_full_shape_list, fix_shift_amount_list
from sahi.utils.cv import get_coco_segmentation_from_bool_mask

from m2f.inference.segment import Segment
from m2f.inference.segmentation_result import SegmentationResult
from m2f.inference.segmenter import Segmenter


class SahiModel(DetectionModel):
    """A `Segmenter` as a detection model of SAHI.

    SAHI keeps masks as polygons without holes, and leaves out parts of fewer than four pixels. `tile` of `Segmenter`
    cuts images too, and keeps masks as they are.

    Args:
        model_path: folder, Hub id or bundled name; "nuclei" by default.
        task: "panoptic", "instance" or "semantic", see `Segmenter`.
        confidence_threshold: the `threshold` of `Segmenter`, but for semantic maps, which have none.
        mask_threshold: see `Segmenter`.
        model: a `Segmenter`, in place of `model_path`, with thresholds of its own.
        settings: see `DetectionModel`.

    Raises:
        OSError, ValueError: see `Segmenter.from_pretrained`.
    """

    def __init__(
        self,
        model_path: str | None = None,
        task: str | None = None,
        confidence_threshold: float = 0.5,
        model: Segmenter | None = None,
        **settings: Any,
    ):
        self.task = task
        super().__init__(model_path, model, confidence_threshold=confidence_threshold, **settings)

    def load_model(self):
        segmenter = Segmenter.from_pretrained(self.model_path, self.task, self.device)
        thresholds = {"threshold": self.confidence_threshold, "mask_threshold": self.mask_threshold}
        given: dict[str, Any] = {} if segmenter.task == "semantic" else thresholds
        self.set_model(Segmenter(segmenter.model, segmenter.processor, self.task, **given))

    def set_model(self, model: Segmenter, **_: Any):
        self.model = model
        self.category_mapping = {str(label): name for label, name in model.id2label.items()}

    @property
    def has_mask(self) -> bool:
        return True

    @property
    def num_categories(self) -> int:
        return len(self.category_mapping)

    @property
    def category_names(self) -> list[str]:
        return list(self.category_mapping.values())

    def perform_inference(self, image: np.ndarray):
        self.perform_batch_inference([image])

    def perform_batch_inference(self, images: list[np.ndarray]):
        """Of (H, W, 3) images in 0..255, together."""
        self._original_predictions: Any = self.model(images)

    def _create_object_prediction_list_from_original_predictions(self, shift_amount_list=None, full_shape_list=None):
        results: list[SegmentationResult] = self._original_predictions
        shifts = fix_shift_amount_list(shift_amount_list)
        shapes = fix_full_shape_list(full_shape_list) or [list(result.size) for result in results]
        self._object_prediction_list_per_image = [
            [found for segment in result.segments if (found := _prediction(segment, shift, shape)) is not None]
            for result, shift, shape in zip(results, shifts, shapes, strict=True)
        ]


def _prediction(segment: Segment, shift: list, shape: list) -> ObjectPrediction | None:
    """None where SAHI has no polygon for the mask."""
    polygons = get_coco_segmentation_from_bool_mask(segment.mask)
    if not polygons:
        return None
    return ObjectPrediction(
        segmentation=polygons,
        category_id=segment.label_id,
        category_name=segment.label,
        score=segment.score,
        shift_amount=shift,
        full_shape=shape,
    )
