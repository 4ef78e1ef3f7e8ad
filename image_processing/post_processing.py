"""From the logits of one image to its semantic map and its panoptic segments.

Pure functions of tensors; they run where the tensors are and compute in float32. Source: inference in the original
(facebookresearch/Mask2Former, mask2former/maskformer_model.py), whose semantics they follow:

    mask logits -> bilinear to the padded size -> crop to the valid size -> bilinear to the target size -> sigmoid

transformers resizes everything to 384 x 384, keeps the padding, and resizes probabilities or binary masks.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Upsampled float32 mask logits that exist at one time (beside their probabilities, of the same size). All 100 queries
# at 1024 x 2048 would be 800 MB. More is no faster on a CPU: panoptic merging of 100 queries, 200 x 272 to 480 x 640,
# took 0.23 s with 32 MB and 0.31 s with 128 MB (one thread, torch 2.13).
CHUNK_BYTES = 32 * 2**20


class MaskGeometry(NamedTuple):
    """The sizes between a mask's logits and the image file, each (height, width) in pixels."""

    padded: tuple[int, int]
    valid: tuple[int, int]
    target: tuple[int, int]


def resize_masks(maps: Tensor, geometry: MaskGeometry) -> Tensor:
    """(N,h,w) logits -> (N,H,W) at the target size: bilinear to the padded size, crop, bilinear to the target."""
    return _crop_and_resize(_bilinear(maps.float(), geometry.padded), geometry)


def resized_chunks(mask_logits: Tensor, geometry: MaskGeometry) -> Iterator[tuple[int, Tensor]]:
    """`resize_masks` a few masks at a time: pairs of the first mask's index and (n,H,W) logits."""
    pixels = max(size[0] * size[1] for size in geometry)
    step = max(1, CHUNK_BYTES // (4 * pixels))
    for start in range(0, len(mask_logits), step):
        yield start, resize_masks(mask_logits[start : start + step], geometry)


def semantic_scores(class_logits: Tensor, mask_logits: Tensor, geometry: MaskGeometry, resize_scores: bool) -> Tensor:
    """(K,H,W) score of each class at each pixel: sum over the queries of class probability times mask probability.

    The no-object class is dropped without renormalisation, so the scores of a pixel may sum to more or less than 1.

    Args:
        class_logits: (Q,K+1).
        mask_logits: (Q,h,w).
        geometry: the sizes; H, W is the target.
        resize_scores: the order of the original's semantic-only checkpoints: scores at the padded size, then crop and
            resize of the scores. False is the order of its panoptic and instance checkpoints: crop and resize of the
            logits, then scores.
    """
    class_probs = class_logits.float().softmax(-1)[:, :-1]
    at_padded_size = MaskGeometry(geometry.padded, geometry.padded, geometry.padded)
    score_geometry = at_padded_size if resize_scores else geometry
    scores = torch.zeros((class_probs.shape[1], *score_geometry.target), device=mask_logits.device)
    for start, logits in resized_chunks(mask_logits, score_geometry):
        chunk_class_probs = class_probs[start : start + len(logits)]
        # In place: the product needs no second (K,H,W) tensor, and autocast does not take it in half precision.
        scores.flatten(1).addmm_(chunk_class_probs.T, logits.sigmoid().flatten(1))
    return _crop_and_resize(scores, geometry) if resize_scores else scores


def semantic_segments(scores: Tensor) -> tuple[Tensor, list[dict]]:
    """One segment for each class that wins a pixel of (K,H,W) semantic scores, in ascending order of the classes.

    Returns:
        (H,W) int32 ids from 1, and for each segment id, label_id, was_fused (always True) and score: the mean over its
        pixels of the class's share of all classes' scores, in [0, 1].
    """
    best, labels = scores.max(0)
    share = (best / scores.sum(0).clamp(min=torch.finfo(torch.float32).tiny)).flatten()
    num_labels = len(scores)
    areas = labels.flatten().bincount(minlength=num_labels)
    sums = torch.zeros(num_labels, device=scores.device).index_add_(0, labels.flatten(), share)
    present = areas > 0
    ids = (present.cumsum(0) * present).to(torch.int32)[labels]
    labels_present, means = present.nonzero().flatten().tolist(), (sums / areas)[present].tolist()
    segments = [
        {"id": index, "label_id": label, "was_fused": True, "score": score}
        for index, (label, score) in enumerate(zip(labels_present, means, strict=True), start=1)
    ]
    return ids, segments


def panoptic_segments(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    threshold: float,
    mask_threshold: float,
    overlap_mask_area_threshold: float,
    label_ids_to_fuse: Collection[int],
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

    Returns:
        (H,W) int32 ids, void 0, segments from 1; and for each segment id, label_id, was_fused (whether its label is in
        `label_ids_to_fuse`) and score (the class probability; the largest one of fused queries).
    """
    scores, labels = class_logits.float().softmax(-1).max(-1)
    kept = ((labels != class_logits.shape[-1] - 1) & (scores > threshold)).nonzero().flatten()
    if len(kept) == 0:
        return torch.zeros(geometry.target, dtype=torch.int32, device=mask_logits.device), []
    scores, labels = scores[kept], labels[kept]
    winner, inside, mask_areas = _win_pixels(mask_logits[kept], scores, geometry, mask_threshold)
    won_areas = winner.flatten().bincount(minlength=len(kept))
    visible_areas = winner[inside].bincount(minlength=len(kept))
    areas = torch.stack([won_areas, mask_areas, visible_areas]).tolist()
    accepted = [
        min(won, mask, visible) > 0 and won / mask >= overlap_mask_area_threshold
        for won, mask, visible in zip(*areas, strict=True)
    ]
    id_of_query, segments = _number_segments(accepted, labels.tolist(), scores.tolist(), label_ids_to_fuse)
    id_map = torch.tensor(id_of_query, dtype=torch.int32, device=winner.device)[winner]
    return id_map.masked_fill_(~inside, 0), segments


def _win_pixels(
    mask_logits: Tensor, scores: Tensor, geometry: MaskGeometry, mask_threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(H,W) index of the winning query, (H,W) whether its mask probability reaches the threshold, (Q,) mask areas."""
    best = torch.full(geometry.target, -1.0, device=mask_logits.device)
    winner = torch.zeros(geometry.target, dtype=torch.int64, device=mask_logits.device)
    inside = torch.zeros(geometry.target, dtype=torch.bool, device=mask_logits.device)
    mask_areas = []
    for start, logits in resized_chunks(mask_logits, geometry):
        probs = logits.sigmoid()
        in_mask = probs >= mask_threshold
        mask_areas.append(in_mask.sum((1, 2)))
        chunk_best, chunk_winner = (probs * scores[start : start + len(probs), None, None]).max(0)
        chunk_inside = in_mask.gather(0, chunk_winner[None])[0]
        better = chunk_best > best
        best = torch.where(better, chunk_best, best)
        winner = torch.where(better, chunk_winner + start, winner)
        inside = torch.where(better, chunk_inside, inside)
    return winner, inside, torch.cat(mask_areas)


def _number_segments(
    accepted: list[bool], labels: list[int], scores: list[float], label_ids_to_fuse: Collection[int]
) -> tuple[list[int], list[dict]]:
    """The segment id of each query (0: none), and the segments, numbered from 1 in query order."""
    ids, segments, fused = [], [], {}
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


def _crop_and_resize(maps: Tensor, geometry: MaskGeometry) -> Tensor:
    height, width = geometry.valid
    return _bilinear(maps[:, :height, :width], geometry.target)


def _bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N,H,W) -> (N,*size); bilinear resizing to the same size is the identity."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
