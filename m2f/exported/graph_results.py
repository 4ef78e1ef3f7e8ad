"""Post-processing as part of a graph: finished results of a batch, at the size of its input.

The rules are those of m2f.image_processing (`post_processing.py`, `instance_masks.py`), whose functions choose what
they compute by the values that they find; here everything is computed, and marked with what counts.
"""

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from m2f.image_processing.instance_masks import logit_of


def semantic_labels(class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int]) -> tuple[Tensor]:
    """The class of each pixel, (B, H, W) int32.

    Args:
        class_logits: (B, Q, K + 1). mask_logits: (B, Q, h, w). size: (H, W).
    """
    class_probs = class_logits.softmax(-1)[..., :-1]
    masks = _resized(mask_logits, size).sigmoid()
    scores = class_probs.transpose(1, 2) @ masks.flatten(2)
    return (scores.argmax(1).unflatten(1, size).to(torch.int32),)


def best_instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    inside: Tensor | None,
    size: tuple[int, int],
    things: Collection[int],
    mask_threshold: float,
    top_k: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The `top_k` best (query, class) pairs of each image, best score first, as `find_instances`.

    Args:
        inside: (B, H, W) bool, where the images are; None: everywhere.
        things: labels of which there are instances; others have the score 0.

    Returns:
        Scores (B, N) float32, 0 where there is no instance; labels (B, N) int64; masks (B, N, H, W) bool.
    """
    batch, queries, classes = class_logits.shape
    is_thing = torch.tensor([label in things for label in range(classes - 1)], device=class_logits.device)
    pair_scores = class_logits.softmax(-1)[..., :-1].flatten(1)
    scores, pairs = pair_scores.topk(min(top_k, queries * (classes - 1)))
    query, label = pairs // (classes - 1), pairs % (classes - 1)
    scores = scores * _looked_up(is_thing, label)
    logits = _resized(_rows(mask_logits, query), size)
    masks = logits > logit_of(mask_threshold)
    if inside is not None:
        masks = masks & inside[:, None]
    areas = masks.flatten(2).sum(-1)
    sums = torch.where(masks, logits.sigmoid(), 0.0).flatten(2).sum(-1)
    scores, order = (scores * sums / (areas + 1e-6)).topk(scores.shape[1])
    return scores, label.gather(1, order), _rows(masks.to(torch.uint8), order).bool()


def panoptic_map(
    class_logits: Tensor,
    mask_logits: Tensor,
    inside: Tensor | None,
    size: tuple[int, int],
    fused: Collection[int],
    threshold: float,
    mask_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The queries of each image merged into segments that do not overlap, as `panoptic_segments`.

    Args:
        fused: labels whose queries become one segment.

    Returns:
        Ids (B, H, W) int32, 0 where there is none; and of each query segment id (B, Q) int32, 0 for one that is no
        segment of its own, label (B, Q) int64, and score (B, Q) float32.
    """
    queries, classes = class_logits.shape[1:]
    number = torch.arange(queries, device=class_logits.device)
    scores, labels = class_logits.softmax(-1).max(-1)
    kept = (labels != classes - 1) & (scores > threshold)
    masks = _resized(mask_logits, size)
    reaches = (masks >= logit_of(mask_threshold)) & kept[..., None, None]
    if inside is not None:
        reaches = reaches & inside[:, None]
    weighted = torch.where(kept[..., None, None], scores[..., None, None] * masks.sigmoid(), -1.0)
    winner = weighted.argmax(1)
    wins = (winner[:, None] == number[:, None, None]) & kept[..., None, None]
    if inside is not None:
        wins = wins & inside[:, None]
    visible = wins & reaches
    won, area, seen = (x.flatten(2).sum(-1) for x in (wins, reaches, visible))
    accepted = (won > 0) & (area > 0) & (seen > 0) & (won >= overlap_threshold * area)
    may_fuse = torch.tensor([label in fused for label in range(classes)], device=class_logits.device)
    fuses = _looked_up(may_fuse, labels)
    # The first accepted query of the same label stands for all of a label that fuses.
    same = (labels[:, :, None] == labels[:, None]) & accepted[:, None]
    first = torch.where(same, number, queries).amin(2)
    leader = torch.where(fuses, first, number)
    leads = accepted & (leader == number)
    numbers = leads.cumsum(1)
    id_of_query = torch.where(accepted, numbers.gather(1, leader.clamp(max=queries - 1)), 0)
    best = torch.where(same, scores[:, None], 0.0).amax(2)
    ids = torch.where(visible.any(1), _entries(id_of_query, winner), 0).to(torch.int32)
    segment_ids = torch.where(leads, id_of_query, 0).to(torch.int32)
    return ids, segment_ids, labels, torch.where(fuses, best, scores)


def _resized(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(mask_logits, size=size, mode="bilinear", align_corners=False)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """(B, Q, ...) at index (B, N): (B, N, ...)."""
    first = torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (first + index).flatten()).unflatten(0, (x.shape[0], index.shape[1]))


def _entries(table: Tensor, index: Tensor) -> Tensor:
    """Of table (B, Q) at index (B, H, W) of each image its entries."""
    first = torch.arange(table.shape[0], device=table.device)[:, None, None] * table.shape[1]
    return table.flatten().index_select(0, (first + index).flatten()).unflatten(0, index.shape)


def _looked_up(table: Tensor, index: Tensor) -> Tensor:
    """Entries of a table (N,) at indices of any shape; as an index alone it would become ONNX's GatherND."""
    return table.index_select(0, index.flatten()).view(index.shape)
