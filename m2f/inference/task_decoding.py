"""From a model's outputs for one view, an image or a tile of it, to what a task asks for."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.post_processing import semantic_segments
from m2f.inference.detection import Detection, detections_from_masks
from m2f.inference.memory_limits import check_memory
from m2f.inference.tile_stitching import PanopticTile

# Instances, which may overlap; or a map of segments that do not.
Found = list[Detection] | PanopticTile

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
    """Post-processing with the settings of a prediction.

    Args:
        task: "panoptic", "instance" or "semantic".
        threshold: lowest score of an instance; class probability above which a query is a panoptic segment.
        mask_threshold: mask probability from which a pixel belongs to a segment.
        max_detections: number of (query, class) pairs of an instance prediction that are considered; None: as many as
            queries, at least 100.
        num_labels: that the model knows.
    """

    processor: M2FImageProcessor
    task: str
    threshold: float
    mask_threshold: float
    max_detections: int | None
    num_labels: int

    def fused_labels(self) -> set[int]:
        """Labels of stuff, whose segments are one."""
        things = self.processor.thing_label_ids
        return set() if things is None else set(range(self.num_labels)) - set(things)

    def decode(self, outputs: ViewOutputs, size: tuple[int, int]) -> Found:
        """What the task asks for.

        Args:
            size: (height, width) that results are wanted at.
        """
        decode = {"instance": self.detections, "panoptic": self.panoptic, "semantic": self.semantic}
        return decode[self.task](outputs, size)

    def detections(self, outputs: ViewOutputs, size: tuple[int, int]) -> list[Detection]:
        """The objects, best score first.

        Args:
            size: (height, width) that results are wanted at.
        """
        best = outputs.class_queries_logits.float().softmax(-1)[..., :-1].amax(-1)
        candidates = int((best >= self.threshold).sum())
        check_memory(size, 2 * candidates, 1, best.device)  # bool masks, unsorted and sorted
        result = self.processor.post_process_instance_segmentation(
            outputs,
            threshold=self.threshold,
            mask_threshold=self.mask_threshold,
            target_sizes=[size],
            return_binary_maps=True,
            top_k=self.max_detections or max(_LEAST_TOP_K, best.shape[1]),
        )[0]
        return detections_from_masks(result["segmentation"], result["segments_info"])

    def panoptic(self, outputs: ViewOutputs, size: tuple[int, int]) -> PanopticTile:
        """Segments that do not overlap."""
        check_memory(size, 0, 0, outputs.masks_queries_logits.device)
        result = self.processor.post_process_panoptic_segmentation(
            outputs, threshold=self.threshold, mask_threshold=self.mask_threshold, target_sizes=[size]
        )[0]
        return PanopticTile(result["segmentation"].cpu().numpy(), result["segments_info"])

    def scores(self, outputs: ViewOutputs, size: tuple[int, int]) -> Tensor:
        """(K, H, W) semantic scores."""
        check_memory(size, 2 * self.num_labels, torch.float32.itemsize, outputs.masks_queries_logits.device)
        result = self.processor.post_process_semantic_segmentation(
            outputs, target_sizes=[size], return_segmentation_scores=True
        )[0]
        return result["segmentation_scores"]

    def semantic(self, outputs: ViewOutputs, size: tuple[int, int]) -> PanopticTile:
        """A segment for each class that has a pixel."""
        ids, infos = semantic_segments(self.scores(outputs, size))
        return PanopticTile(ids.cpu().numpy(), infos)
