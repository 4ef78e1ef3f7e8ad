"""From the logits of one image to its instances, which may overlap.

Pure functions of tensors, on the tensors' device, in float32. Source: instance_inference in the original
(facebookresearch/Mask2Former, mask2former/maskformer_model.py).
"""

import math
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from m2f.image_processing.plain_masks import MaskGeometry
from m2f.image_processing.post_processing import masks_at_target
from m2f.modeling_m2f.kernels.resized_masks import RESIZED_MASKS, lay_masks


class Instances(NamedTuple):
    """N instances sorted by score, best first."""

    scores: Tensor  # (N,) float32 in [0, 1]
    labels: Tensor  # (N,) int64
    masks: Tensor  # (N,H,W) bool, overlaps kept

    def take(self, indices: Tensor) -> "Instances":
        return Instances(*(field[indices] for field in self))


def find_instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    threshold: float,
    mask_threshold: float,
    top_k: int,
    thing_label_ids: Collection[int] | None = None,
    chunk_bytes: int | None = None,
) -> Instances:
    """The `top_k` best (query, class) pairs as instances; one query may appear with several classes.

    The score is the class probability times the mean mask probability inside the mask. Pairs of other labels than
    `thing_label_ids` (None: all are things) are removed after the top-k choice, as in the original. Instances below
    `threshold` and those without a pixel are removed; the original removes neither, and average precision needs
    `threshold` 0, where only those without a pixel go, whose score is 0.

    Args:
        class_logits: (Q,K+1).
        mask_logits: (Q,h,w).
        mask_threshold: a pixel is inside if its mask probability is above; at 0.5, if its logit is above 0. The masks
            are resized as logits; transformers resizes them when they are binary.
        chunk_bytes: of upsampled masks at one time, in plain PyTorch; None: post_processing.CHUNK_BYTES.
    """
    num_labels = class_logits.shape[-1] - 1
    pair_scores = class_logits.float().softmax(-1)[:, :-1].flatten()
    scores, pairs = pair_scores.topk(min(top_k, len(pair_scores)))
    queries, labels = pairs // num_labels, pairs % num_labels
    # The mean mask probability is at most 1, so a pair below the threshold need not be upsampled.
    candidate = scores >= threshold
    if thing_label_ids is not None:
        candidate &= torch.isin(
            labels, torch.tensor(sorted(thing_label_ids), dtype=labels.dtype, device=labels.device)
        )
    scores, queries, labels = scores[candidate], queries[candidate], labels[candidate]

    if len(scores) == 0:
        return Instances(scores, labels, torch.zeros((0, *geometry.target), dtype=torch.bool, device=scores.device))
    unique_queries, mask_index = queries.unique(return_inverse=True)
    masks = masks_at_target(mask_logits, unique_queries, geometry, chunk_bytes)
    areas, sums = masks.measure(logit_of(mask_threshold))
    # 1e-6 as in the original: a mask without a pixel scores 0.
    scores = scores * (sums / (areas + 1e-6)).float()[mask_index]
    order = scores.argsort(descending=True, stable=True)
    order = order[(scores[order] >= threshold) & (areas[mask_index[order]] > 0)]
    # Upsampled once more, in the order of the result: kept from the first time they would be there twice for a moment.
    return Instances(scores[order], labels[order], masks.binary(mask_index[order], logit_of(mask_threshold)))


def visible_instances(instances: Instances, overlap_mask_area_threshold: float) -> tuple[Tensor, Instances]:
    """Lay the instances on one map, higher scores on top.

    An instance of whose pixels less than `overlap_mask_area_threshold` stay visible is left out and hides nothing.
    transformers paints in the unsorted order of its top-k and lists instances of which nothing is left.

    Returns:
        (H,W) int32 map: background -1, else the index of the instance among those that are left; and these instances.
    """
    masks = instances.masks
    if RESIZED_MASKS.runs_on(masks.device):
        owner, kept = lay_masks(masks, overlap_mask_area_threshold)
        return owner, instances.take(kept)
    owner = torch.full(masks.shape[1:], -1, dtype=torch.int64, device=masks.device)
    kept = torch.zeros(len(masks), dtype=torch.bool, device=masks.device)
    for index, mask in enumerate(masks):
        free = mask & (owner < 0)
        visible, area = free.sum(), mask.sum()
        kept[index] = (visible > 0) & (visible.float() >= overlap_mask_area_threshold * area.float())
        owner = torch.where(free & kept[index], index, owner)
    # Indices of the kept instances, closed up; the last entry serves the background's -1.
    new_index = torch.cat([kept.cumsum(0) - 1, torch.tensor([-1], device=masks.device)])
    return new_index[owner].to(torch.int32), instances.take(kept)


def encode_coco_rle(masks: Tensor) -> list[dict]:
    """COCO's compressed run-length encoding of (N,H,W) masks: dicts of size [H, W] and counts (str, fit for JSON).

    Column-major as the COCO tools read it; what transformers calls COCO RLE is row-major (start, length) pairs.

    Raises:
        ImportError: pycocotools is not installed.
    """
    try:
        from pycocotools import mask as coco_mask
    except ImportError as error:
        raise ImportError("return_coco_annotation needs pycocotools: pip install pycocotools") from error
    encoded = []
    for mask in masks.cpu().numpy():
        rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        encoded.append({"size": [int(edge) for edge in rle["size"]], "counts": rle["counts"].decode("ascii")})
    return encoded


def logit_of(probability: float) -> float:
    """The logit whose sigmoid is `probability` in [0, 1]; infinite at both ends."""
    if probability in (0.0, 1.0):
        return math.inf if probability else -math.inf
    return math.log(probability / (1.0 - probability))
