"""From the logits of one image to its semantic map and its panoptic segments.

Pure functions of tensors; they run where the tensors are and compute in float32. Source: inference in the original
(facebookresearch/Mask2Former, mask2former/maskformer_model.py), whose semantics they follow:

    mask logits -> bilinear to the padded size -> crop to the valid size -> bilinear to the target size -> sigmoid

transformers resizes everything to 384 x 384, keeps the padding, and resizes probabilities or binary masks.
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from m2f.image_processing.plain_masks import MaskGeometry, PlainMasks, crop_and_resize, resized_chunks
from m2f.modeling_m2f.kernels.resized_masks import RESIZED_MASKS, ResizedMasks
from m2f.modeling_m2f.kernels.semantic_votes import SEMANTIC_VOTES, vote_by_class

# Upsampled float32 mask logits that exist at one time (beside their probabilities, of the same size). All 100 queries
# at 1024 x 2048 would be 800 MB. More is no faster on a CPU: panoptic merging of 100 queries, 200 x 272 to 480 x 640,
# took 0.23 s with 32 MB and 0.31 s with 128 MB (one thread, torch 2.13).
CHUNK_BYTES = 32 * 2**20


def masks_at_target(
    mask_logits: Tensor, chosen: Tensor, geometry: MaskGeometry, chunk_bytes: int | None = None
) -> ResizedMasks | PlainMasks:
    """The masks at the indices `chosen` (N,), N > 0, of (Q,h,w) logits: the CPU's kernel, or plain PyTorch.

    The kernel does not take logits that are not finite, nor any that are to shrink on the way to the padded size.
    """
    grows = all(size <= padded for size, padded in zip(mask_logits.shape[1:], geometry.padded, strict=True))
    if grows and RESIZED_MASKS.runs_on(mask_logits.device):
        masks = ResizedMasks(mask_logits, chosen, *geometry)
        if masks.finite:
            return masks
    return PlainMasks(mask_logits, chosen, geometry, chunk_bytes or CHUNK_BYTES)


def semantic_scores(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    resize_scores: bool,
    chunk_bytes: int | None = None,
) -> Tensor:
    """(K,H,W) score of each class at each pixel: sum over the queries of class probability times mask probability.

    The no-object class is dropped without renormalisation, so the scores of a pixel may sum to more or less than 1.

    Args:
        class_logits: (Q,K+1).
        mask_logits: (Q,h,w).
        geometry: the sizes; H, W is the target.
        resize_scores: the order of the original's semantic-only checkpoints: scores at the padded size, then crop and
            resize of the scores. False is the order of its panoptic and instance checkpoints: crop and resize of the
            logits, then scores.
        chunk_bytes: of upsampled masks at one time; None: `CHUNK_BYTES`.
    """
    class_probs = class_logits.float().softmax(-1)[:, :-1]
    at_padded_size = MaskGeometry(geometry.padded, geometry.padded, geometry.padded)
    score_geometry = at_padded_size if resize_scores else geometry
    scores = torch.zeros((class_probs.shape[1], *score_geometry.target), device=mask_logits.device)
    for start, logits in resized_chunks(mask_logits, score_geometry, chunk_bytes or CHUNK_BYTES):
        chunk_class_probs = class_probs[start : start + len(logits)]
        # In place: the product needs no second (K,H,W) tensor, and autocast does not take it in half precision.
        scores.flatten(1).addmm_(chunk_class_probs.T, logits.sigmoid().flatten(1))
    return crop_and_resize(scores, geometry) if resize_scores else scores


class SemanticMap(NamedTuple):
    """The winning class of each pixel, from (K,H,W) semantic scores."""

    labels: Tensor  # (H,W) int64
    best: Tensor  # (H,W) float32, its score
    total: Tensor  # (H,W) float32, the sum of all classes' scores


def semantic_map(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    resize_scores: bool,
    chunk_bytes: int | None = None,
) -> SemanticMap:
    """`semantic_scores` and the best class of each pixel; on a CPU without (K,H,W) scores.

    The labels are those of the scores but where two classes differ by less than float32 rounds.
    """
    grows = all(size <= padded for size, padded in zip(mask_logits.shape[1:], geometry.padded, strict=True))
    if grows and SEMANTIC_VOTES.runs_on(mask_logits.device) and mask_logits.float().sum().isfinite():
        class_probs = class_logits.float().softmax(-1)[:, :-1]
        return SemanticMap(*vote_by_class(class_probs, mask_logits, *geometry, resize_scores))
    return _best_class(semantic_scores(class_logits, mask_logits, geometry, resize_scores, chunk_bytes))


def semantic_segments(scores: Tensor) -> tuple[Tensor, list[dict]]:
    """One segment for each class that wins a pixel of (K,H,W) semantic scores, see `map_segments`."""
    return map_segments(_best_class(scores), len(scores))


def map_segments(found: SemanticMap, num_labels: int) -> tuple[Tensor, list[dict]]:
    """One segment for each class that wins a pixel, in ascending order of the classes.

    Returns:
        (H,W) int32 ids from 1, and for each segment id, label_id, was_fused (always True) and score: the mean over its
        pixels of the class's share of all classes' scores, in [0, 1].
    """
    labels = found.labels.flatten()
    share = (found.best / found.total.clamp(min=torch.finfo(torch.float32).tiny)).flatten()
    areas = labels.bincount(minlength=num_labels)
    sums = torch.zeros(num_labels, device=share.device).index_add_(0, labels, share)
    present = areas > 0
    ids = (present.cumsum(0) * present).to(torch.int32)[found.labels]
    labels_present, means = present.nonzero().flatten().tolist(), (sums / areas)[present].tolist()
    segments = [
        {"id": index, "label_id": label, "was_fused": True, "score": score}
        for index, (label, score) in enumerate(zip(labels_present, means, strict=True), start=1)
    ]
    return ids, segments


def _best_class(scores: Tensor) -> SemanticMap:
    best, labels = scores.max(0)
    return SemanticMap(labels, best, scores.sum(0))


def panoptic_segments(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    threshold: float,
    mask_threshold: float,
    overlap_mask_area_threshold: float,
    label_ids_to_fuse: Collection[int],
    chunk_bytes: int | None = None,
) -> tuple[Tensor, list[dict]]:
    """Merge the queries into segments that do not overlap.

    A query takes part if its best class is not no-object and has a probability above `threshold`. A pixel goes to the
    query with the largest class probability times mask probability, and stays void unless that query's mask
    probability reaches `mask_threshold` there. A query is dropped if it wins less than `overlap_mask_area_threshold`
    of the pixels where its mask probability, unweighted, reaches `mask_threshold`. Queries of a label in
    `label_ids_to_fuse` become one segment.

    Departures from transformers: void exists, the overlap rule is unweighted and inclusive, a fused query adds no
    second entry and reuses no other segment's id, void is 0 also where nothing is found (not a map of -1).

    Args:
        class_logits: (Q,K+1).
        mask_logits: (Q,h,w).
        chunk_bytes: of upsampled masks at one time, in plain PyTorch; None: `CHUNK_BYTES`.

    Returns:
        (H,W) int32 ids, void 0, segments from 1; and for each segment id, label_id, was_fused (whether its label is in
        `label_ids_to_fuse`) and score (the class probability; the largest one of fused queries).
    """
    scores, labels = class_logits.float().softmax(-1).max(-1)
    kept = ((labels != class_logits.shape[-1] - 1) & (scores > threshold)).nonzero().flatten()
    if len(kept) == 0:
        return torch.zeros(geometry.target, dtype=torch.int32, device=mask_logits.device), []
    scores, labels = scores[kept], labels[kept]
    codes, counts = masks_at_target(mask_logits, kept, geometry, chunk_bytes).merge(scores, mask_threshold)
    accepted = [
        min(won, mask, visible) > 0 and won / mask >= overlap_mask_area_threshold
        for won, mask, visible in zip(*counts.tolist(), strict=True)
    ]
    id_of_query, segments = _number_segments(accepted, labels.tolist(), scores.tolist(), label_ids_to_fuse)
    return torch.tensor([0, *id_of_query], dtype=torch.int32, device=codes.device)[codes], segments


def _number_segments(
    accepted: list[bool], labels: list[int], scores: list[float], label_ids_to_fuse: Collection[int]
) -> tuple[list[int], list[dict]]:
    """The segment id of each query (0: none), and the segments, numbered from 1 in query order."""
    ids: list[int] = []
    segments: list[dict] = []
    fused: dict[int, dict] = {}
    for is_accepted, label, score in zip(accepted, labels, scores, strict=True):
        if not is_accepted:
            ids.append(0)
            continue
        if label in fused:
            fused[label]["score"] = max(fused[label]["score"], score)
            ids.append(fused[label]["id"])
            continue
        was_fused = label in label_ids_to_fuse
        segments.append({"id": len(segments) + 1, "label_id": label, "was_fused": was_fused, "score": score})
        ids.append(segments[-1]["id"])
        if was_fused:
            fused[label] = segments[-1]
    return ids, segments
