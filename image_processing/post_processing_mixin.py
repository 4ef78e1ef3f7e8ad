"""The three post-processing methods of M2FImageProcessor: model outputs of a batch to results for each image."""

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
from transformers.image_utils import SizeDict
from transformers.utils import logging

from m2f.image_processing.batching import canvas_sizes
from m2f.image_processing.file_settings import pad_size_in_use, size_fields
from m2f.image_processing.instance_masks import Instances, encode_coco_rle, find_instances, visible_instances
from m2f.image_processing.mask_geometry import Prepared, Size, mask_geometries, read_target_sizes
from m2f.image_processing.memory_fallback import within_memory
from m2f.image_processing.plain_masks import MaskGeometry
from m2f.image_processing.post_processing import map_segments, panoptic_segments, semantic_map, semantic_scores
from m2f.image_processing.resize_rule import resized_size
from m2f.image_processing.target_memory import check_target_memory, clear_memory_errors

logger = logging.get_logger(__name__)

# Defaults, of transformers too: lowest score of an instance, mask probability from which a pixel is inside, and share
# of its pixels that a segment must win.
SCORE_THRESHOLD, MASK_THRESHOLD, OVERLAP_THRESHOLD = 0.5, 0.5, 0.8


class PostProcessingMixin:
    """Needs the processor's `task`, `thing_label_ids`, `panoptic_threshold`, and what it resizes and pads by:
    `do_resize`, `size`, `do_pad`, `size_divisor` and `pad_size`.

    `outputs` is read by attribute: `class_queries_logits` (B,Q,K+1), `masks_queries_logits` (B,Q,h,w) of any floating
    dtype and device, and if present `valid_sizes` and `input_sizes` (B,2). Masks are cut to where an image ends in the
    model's input: at its `valid_sizes`, of a model that was given the pixel_mask, or set by the caller. Without them,
    target sizes equal to the input's size mean the whole input; other ones are those of the image files, if this
    processor would make the input of such files; and if not, the whole input is meant, as in transformers.
    mask_geometry.py has this rule in full. Without `target_sizes` results have the valid size, else the input's.

    Names, positions and return types of the arguments are those of transformers. All results are on the device of the
    outputs, but those of an image for which a GPU's memory did not suffice are on the CPU (a warning tells).

    Raises (each method):
        ValueError: logits that are not finite (-inf alone is one that a class may have), target sizes that do not fit
            the batch or that no memory can hold, or `valid_sizes` beyond the padded size.
        MemoryError: memory ran out.
    """

    task: str
    thing_label_ids: list[int] | None
    panoptic_threshold: float
    do_resize: bool
    size: Any
    do_pad: bool
    size_divisor: int
    pad_size: SizeDict | None

    @torch.no_grad()
    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Sequence | None = None, return_segmentation_scores: bool = False
    ) -> list[Tensor] | list[SemanticSegmentationPostProcessorOutput]:
        """The class of each pixel.

        A processor of task "semantic" computes the class scores at the padded size and resizes the scores; of another
        task, it resizes the mask logits and computes the scores at the target size. The original has both orders too.

        Args:
            outputs: see the class.
            target_sizes: B pairs (height, width), a (B,2) tensor, or None.
            return_segmentation_scores: return the scores as well.

        Returns:
            For each image an (H,W) int64 map of labels, or with scores an object with `segmentation` (that map) and
            `segmentation_scores` (K,H,W), sums over the queries of class probability times mask probability.

        Raises: see the class.
        """

        def work(class_logits, mask_logits, chunk_bytes, geometry):
            arguments = (class_logits, mask_logits, geometry, self.task == "semantic", chunk_bytes)
            if not return_segmentation_scores:
                return semantic_map(*arguments).labels
            scores = semantic_scores(*arguments)
            data = {"segmentation": scores.argmax(0), "segmentation_scores": scores}
            return SemanticSegmentationPostProcessorOutput(data=data)

        scores = 4 * (outputs.class_queries_logits.shape[-1] - 1) if return_segmentation_scores else 0
        return self._each_image(work, outputs, target_sizes, 8 + scores)

    @torch.no_grad()
    def post_process_instance_segmentation(
        self,
        outputs: Any,
        threshold: float = SCORE_THRESHOLD,
        mask_threshold: float = MASK_THRESHOLD,
        overlap_mask_area_threshold: float = OVERLAP_THRESHOLD,
        target_sizes: Sequence | None = None,
        return_coco_annotation: bool = False,
        return_binary_maps: bool = False,
        top_k: int = 100,
    ) -> list[dict]:
        """The instances of each image, best score first.

        Args:
            outputs: see the class.
            threshold: lowest score, in [0, 1]. The original has none: pass 0 to compute average precision.
            mask_threshold: mask probability above which a pixel is inside, in [0, 1].
            overlap_mask_area_threshold: for the id map alone: an instance stays if at least this share of its pixels
                is visible. (transformers accepts mask_threshold and this argument and uses neither.)
            target_sizes: B pairs (height, width), a (B,2) tensor, or None.
            return_coco_annotation: return COCO's compressed run-length encodings.
            return_binary_maps: return one map per instance.
            top_k: number of (query, class) pairs considered. transformers takes as many as there are queries.

        Returns:
            For each image a dict: "segments_info" is a list of dicts with id (from 0), label_id, was_fused (False) and
            score in [0, 1] (transformers rounds it to 6 digits); "segmentation" is
            - by default an (H,W) int32 map of ids, background -1 (transformers: float32). Where instances overlap, the
              higher score lies on top;
            - with `return_binary_maps` an (N,H,W) bool tensor in the order of segments_info, overlaps kept, (0,H,W)
              where there is nothing (transformers: float32, and a 2-d map where there is nothing);
            - with `return_coco_annotation` a list of N dicts with size [H, W] and counts, overlaps kept.

        Raises:
            ValueError: both return options, a threshold outside [0, 1], top_k below 1, a processor all of whose labels
                are stuff; and see the class.
            ImportError: `return_coco_annotation` without pycocotools.
        """
        if return_coco_annotation and return_binary_maps:
            raise ValueError("return_coco_annotation and return_binary_maps can not both be True; choose one")
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        _check_thresholds(
            threshold=threshold,
            mask_threshold=mask_threshold,
            overlap_mask_area_threshold=overlap_mask_area_threshold,
        )
        things = self.thing_labels(outputs.class_queries_logits.shape[-1] - 1)
        if not things:
            raise ValueError(
                f"no label is a thing (task {self.task!r}, thing_label_ids {self.thing_label_ids}), so there are no "
                "instances; use post_process_semantic_segmentation, or set the processor's task or thing_label_ids"
            )

        def work(class_logits, mask_logits, chunk_bytes, geometry):
            limits = (threshold, mask_threshold, top_k, things)
            instances = find_instances(class_logits, mask_logits, geometry, *limits, chunk_bytes)
            segmentation: Tensor | list[dict]
            if return_coco_annotation:
                segmentation = encode_coco_rle(instances.masks)
            elif return_binary_maps:
                segmentation = instances.masks
            else:
                segmentation, instances = visible_instances(instances, overlap_mask_area_threshold)
            return {"segmentation": segmentation, "segments_info": _instance_info(instances)}

        return self._each_image(work, outputs, target_sizes, 4)

    @torch.no_grad()
    def post_process_panoptic_segmentation(
        self,
        outputs: Any,
        threshold: float | None = None,
        mask_threshold: float = MASK_THRESHOLD,
        overlap_mask_area_threshold: float = OVERLAP_THRESHOLD,
        label_ids_to_fuse: Collection[int] | None = None,
        target_sizes: Sequence | None = None,
    ) -> list[dict]:
        """Each image as segments that do not overlap.

        A processor of task "semantic" gives one segment for each class of the semantic map, whatever the thresholds:
        transformers' pipeline calls this method for every checkpoint.

        Args:
            outputs: see the class.
            threshold: a query takes part if its class probability is above. None: the processor's
                `panoptic_threshold`, 0.8 unless a preset or a checkpoint says otherwise (transformers: 0.5).
            mask_threshold: mask probability from which a pixel is inside, in [0, 1].
            overlap_mask_area_threshold: a query stays if it wins at least this share of the pixels of its mask.
            label_ids_to_fuse: labels whose queries become one segment. None: the stuff labels, those that are not in
                the processor's `thing_label_ids`; none for the task "instance". (transformers: None fuses nothing.)
            target_sizes: B pairs (height, width), a (B,2) tensor, or None.

        Returns:
            For each image a dict: "segmentation" is an (H,W) int32 map of ids, void 0, all 0 where nothing is found
            (transformers: -1, float32); "segments_info" is a list of dicts with id (from 1), label_id, was_fused
            (whether the label is one of those to fuse) and score in [0, 1], the class probability.

        Raises:
            ValueError: a threshold outside [0, 1]; and see the class.
        """
        threshold = self.panoptic_threshold if threshold is None else threshold
        _check_thresholds(
            threshold=threshold,
            mask_threshold=mask_threshold,
            overlap_mask_area_threshold=overlap_mask_area_threshold,
        )
        thresholds = (threshold, mask_threshold, overlap_mask_area_threshold)
        fused = self.labels_to_fuse(outputs.class_queries_logits.shape[-1] - 1, label_ids_to_fuse)

        def work(class_logits, mask_logits, chunk_bytes, geometry):
            if self.task == "semantic":
                found = semantic_map(class_logits, mask_logits, geometry, True, chunk_bytes)
                segmentation, segments = map_segments(found, class_logits.shape[-1] - 1)
            else:
                limits = (*thresholds, fused)
                segmentation, segments = panoptic_segments(class_logits, mask_logits, geometry, *limits, chunk_bytes)
            return {"segmentation": segmentation, "segments_info": segments}

        return self._each_image(work, outputs, target_sizes, 4)

    def _each_image(
        self, work: Callable[..., Any], outputs: Any, target_sizes: Sequence | None, pixel_bytes: int
    ) -> list:
        """`work(class logits, mask logits, bytes of a chunk, geometry=sizes)` of each image, whose result has at least
        `pixel_bytes` for each pixel of the target."""
        results = []
        for class_logits, mask_logits, geometry in self._split_batch(outputs, target_sizes, pixel_bytes):
            with clear_memory_errors(geometry.target):
                results.append(within_memory(functools.partial(work, geometry=geometry), class_logits, mask_logits))
        return results

    def _split_batch(
        self, outputs: Any, target_sizes: Sequence | None, pixel_bytes: int
    ) -> Iterator[tuple[Tensor, Tensor, MaskGeometry]]:
        """(Q,K+1) class logits, (Q,h,w) mask logits and sizes of each image."""
        class_logits, mask_logits = outputs.class_queries_logits, outputs.masks_queries_logits
        targets = None
        if target_sizes is not None:
            targets = read_target_sizes(target_sizes, outputs)
            check_target_memory(targets, pixel_bytes, mask_logits.device)
        geometries = mask_geometries(outputs, targets, self._prepare)
        _check_finite(class_logits, mask_logits)
        return zip(class_logits, mask_logits, geometries, strict=True)

    def _prepare(self, image_sizes: list[Size]) -> Prepared:
        """What this processor makes of a batch of images of these sizes."""
        sizes, size, pad_size = image_sizes, size_fields(self.size), pad_size_in_use(self, {})
        if self.do_resize:
            sizes = [resized_size(image_size, size) for image_size in image_sizes]
        is_fixed = not self.do_resize or not self.do_pad or pad_size or "height" in size
        divisor = None if is_fixed else self.size_divisor or 1
        if pad_size:
            fields = size_fields(pad_size, is_square=True)
            pad_size = SizeDict(**fields)
            if self.do_pad and any(h > fields["height"] or w > fields["width"] for h, w in sizes):
                return Prepared(sizes, [], divisor)
        return Prepared(sizes, canvas_sizes(sizes, self.do_pad, pad_size, self.size_divisor), divisor)

    def thing_labels(self, num_labels: int) -> set[int]:
        """Labels of which there are instances, of a model with `num_labels`.

        task "instance": every label. Else `thing_label_ids`; None: every label, or none for task "semantic".

        Raises:
            ValueError: one of `thing_label_ids` is none of the model's.
        """
        if self.task == "instance" or (self.thing_label_ids is None and self.task == "panoptic"):
            return set(range(num_labels))
        things = set(self.thing_label_ids or ())
        if things and max(things) >= num_labels:
            raise ValueError(
                f"thing_label_ids holds {max(things)}, but the outputs have {num_labels} labels (0 to "
                f"{num_labels - 1}): the processor belongs to another model. Make it with "
                "M2FImageProcessor.from_model_config(model.config), or set processor.thing_label_ids"
            )
        return things

    def labels_to_fuse(self, num_labels: int, label_ids_to_fuse: Collection[int] | None = None) -> set[int]:
        """Labels whose queries become one panoptic segment: those given, else all that are no things."""
        if label_ids_to_fuse is not None:
            return {int(label) for label in label_ids_to_fuse}
        if self.task == "panoptic" and self.thing_label_ids is None:
            logger.warning_once(
                "The processor does not know which labels are things (thing_label_ids is None), so no label is fused. "
                'Set thing_label_ids, task="instance" if all are things, or pass label_ids_to_fuse.'
            )
        return set(range(num_labels)) - self.thing_labels(num_labels)


def _check_finite(class_logits: Tensor, mask_logits: Tensor) -> None:
    """Raise ValueError for logits of which post-processing would make "nothing found" or a wrong map: float16 that
    overflowed, a broken checkpoint. -inf among the class logits means a class that is out of question, and stays.

    A sum is not finite if one of its terms is not, needs no memory, and a GPU is waited for once.
    """
    undefined = class_logits.float().softmax(-1).isnan().flatten(1).any(1)
    # The usual logits are too many for float16. Only there, because a sum in another dtype takes 20 times as long.
    sums = mask_logits.sum((1, 2, 3), dtype=torch.float32 if mask_logits.dtype == torch.float16 else None)
    if not torch.cat([undefined, ~sums.isfinite()]).any():
        return
    # Finite numbers may have a sum that is not.
    broken = {
        "class_queries_logits": (undefined, "NaN or +infinity"),
        "masks_queries_logits": (~mask_logits.isfinite().flatten(1).all(1), "NaN or infinity"),
    }
    for name, (is_broken, what) in broken.items():
        if images := is_broken.nonzero().flatten().tolist():
            raise ValueError(
                f"{name} of image {images} in the batch hold {what}; run the model in float32 or bfloat16, or check "
                "its weights"
            )


def _instance_info(instances: Instances) -> list[dict]:
    pairs = zip(instances.labels.tolist(), instances.scores.tolist(), strict=True)
    return [
        {"id": index, "label_id": label, "was_fused": False, "score": score}
        for index, (label, score) in enumerate(pairs)
    ]


def _check_thresholds(**thresholds: float) -> None:
    for name, value in thresholds.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
