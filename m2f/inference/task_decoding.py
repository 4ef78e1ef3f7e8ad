"""From a model's outputs for one view, an image or a tile of it, to what a task asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.post_processing import semantic_segments
from m2f.image_processing.post_processing_mixin import MASK_THRESHOLD, SCORE_THRESHOLD
from m2f.inference.detection import Detection, detections_from_masks
from m2f.inference.memory_limits import check_memory


class MappedSegments(NamedTuple):
    """Segments that do not overlap, panoptic ones or those of a semantic map.

    ids: (H, W) int32, 0 where there is no segment.
    infos: of each segment: id, label_id, was_fused and score, as post-processing gives them.
    """

    ids: np.ndarray
    infos: Sequence[Mapping[str, Any]]


# What a task asks for: instances, which may overlap, or a map.
TaskSegments = list[Detection] | MappedSegments

_LEAST_TOP_K = 100  # the original's number of (query, class) pairs


@dataclass(frozen=True)
class ViewOutputs:
    """A model's outputs for one view, under the names that post-processing reads: `class_queries_logits` (1,Q,K+1),
    `masks_queries_logits` (1,Q,h,w) and `valid_sizes` (1,2)."""

    class_queries_logits: Tensor
    masks_queries_logits: Tensor
    valid_sizes: Tensor

    @classmethod
    def split(cls, outputs: Any) -> list["ViewOutputs"]:
        """Those of each view of a batch."""
        fields = (outputs.class_queries_logits, outputs.masks_queries_logits, outputs.valid_sizes)
        return [cls(*parts) for parts in zip(*(field.split(1) for field in fields), strict=True)]


@dataclass(frozen=True)
class TaskDecoder:
    """Post-processing with the settings of a prediction or of a measurement.

    Args:
        task: "panoptic", "instance" or "semantic".
        threshold: lowest score of an instance, by default `SCORE_THRESHOLD`; class probability above which a query is
            a panoptic segment, by default the processor's.
        mask_threshold: mask probability from which a pixel belongs to a segment.
        max_detections: number of (query, class) pairs of an instance prediction that are considered; None: as many as
            queries, at least 100.
    """

    processor: M2FImageProcessor
    task: str
    threshold: float | None = None
    mask_threshold: float = MASK_THRESHOLD
    max_detections: int | None = None

    def decode(self, outputs: ViewOutputs, size: tuple[int, int]) -> TaskSegments:
        """What the task asks for, of one view.

        Args:
            size: (height, width) that results are wanted at.

        Raises:
            ImageTooLargeError: it does not fit into memory.
        """
        if self.task == "instance":
            return self._detections(outputs, size)
        return self._panoptic_map(outputs, size) if self.task == "panoptic" else self._semantic_map(outputs, size)

    def scores(self, outputs: ViewOutputs, size: tuple[int, int]) -> Tensor:
        """(K, H, W) semantic scores of one view; raises as `decode`."""
        logits = outputs.class_queries_logits
        check_memory(size, 2 * (logits.shape[-1] - 1), torch.float32.itemsize, logits.device)
        return self.scores_of_batch(outputs, [size])[0]

    def predictions(self, outputs: Any, sizes: Sequence[tuple[int, int]] | None) -> list:
        """What the processor's post-processing gives for each image of a batch, in the forms that metrics and files
        take: instances with COCO's run-length encodings, panoptic segments with a map, (H, W) semantic labels.

        Args:
            outputs: of the model.
            sizes: (height, width) of each image; None: as the model got them.
        """
        if self.task == "instance":
            return self._instances(outputs, sizes, return_coco_annotation=True)
        if self.task == "panoptic":
            return self._panoptic(outputs, sizes)
        return self.processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)

    def scores_of_batch(self, outputs: Any, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """(K, H, W) semantic scores of each image of a batch."""
        results: list[Any] = self.processor.post_process_semantic_segmentation(
            outputs, target_sizes=sizes, return_segmentation_scores=True
        )
        return [result["segmentation_scores"] for result in results]

    def _detections(self, outputs: ViewOutputs, size: tuple[int, int]) -> list[Detection]:
        """The objects, best score first."""
        best = outputs.class_queries_logits.float().softmax(-1)[..., :-1].amax(-1)
        candidates = int((best >= self._lowest_score).sum())
        check_memory(size, 2 * candidates, 1, best.device)  # bool masks, unsorted and sorted
        (result,) = self._instances(outputs, [size], return_binary_maps=True)
        return detections_from_masks(result["segmentation"], result["segments_info"])

    def _panoptic_map(self, outputs: ViewOutputs, size: tuple[int, int]) -> MappedSegments:
        check_memory(size, 0, 0, outputs.masks_queries_logits.device)
        (result,) = self._panoptic(outputs, [size])
        return MappedSegments(result["segmentation"].cpu().numpy(), result["segments_info"])

    def _semantic_map(self, outputs: ViewOutputs, size: tuple[int, int]) -> MappedSegments:
        """A segment for each class that has a pixel."""
        ids, infos = semantic_segments(self.scores(outputs, size))
        return MappedSegments(ids.cpu().numpy(), infos)

    @property
    def _lowest_score(self) -> float:
        return SCORE_THRESHOLD if self.threshold is None else self.threshold

    def _instances(self, outputs: Any, sizes: Sequence[tuple[int, int]] | None, **form: bool) -> list[dict]:
        return self.processor.post_process_instance_segmentation(
            outputs,
            threshold=self._lowest_score,
            mask_threshold=self.mask_threshold,
            target_sizes=sizes,
            top_k=self.max_detections or max(_LEAST_TOP_K, outputs.class_queries_logits.shape[1]),
            **form,
        )

    def _panoptic(self, outputs: Any, sizes: Sequence[tuple[int, int]] | None) -> list[dict]:
        return self.processor.post_process_panoptic_segmentation(
            outputs, self.threshold, mask_threshold=self.mask_threshold, target_sizes=sizes
        )
