"""The labels given to the model: checked, and brought to one form, before anything is computed.

Masks come in two forms, told apart by their type. int32: index maps, layers (G, H, W) whose values are segment indices
(m2f.data.segment_map.SegmentMap). bool, uint8 or floating: one mask per segment, (N, H, W), with values in [0, 1].
"""

import torch
from torch import Tensor
from transformers.utils import logging

from m2f.modeling_m2f.mask_targets import IndexMapTargets, MaskTargets, StackTargets

logger = logging.get_logger(__name__)

# Fills the class labels of an image with fewer targets than the batch's largest, and index maps with fewer layers;
# what Trainer pads labels with.
PADDING_LABEL = -100
NOTHING, IGNORED = -1, -2  # in index maps, as in m2f.data.segment_map


def prepare_targets(
    mask_labels: list[Tensor] | Tensor,
    class_labels: list[Tensor] | Tensor,
    image_sizes: list[tuple[int, int]],
    given_size: tuple[int, int],
    canvas: tuple[int, int],
    padding_counts: bool,
    num_classes: int,
    num_queries: int,
    device: torch.device,
) -> list[MaskTargets]:
    """Targets of a batch on one canvas.

    Args:
        mask_labels: per image (G, H, W) int32 or (N, H, W) bool, uint8 or floating; or one tensor, batch first.
        class_labels: per image (N,) integers; or one tensor (B, N). -100 marks targets that only fill up.
        image_sizes: (h, w) of each image's real pixels.
        given_size: (H, W) of the `pixel_values` given to the model.
        canvas: (H, W) inside the network, `given_size` rounded up.
        padding_counts: whether padding is background of every mask, or takes part in nothing.

    Returns:
        One per image.

    Raises:
        ValueError: counts, sizes, types or values do not fit; the image's index is named.
    """
    if len(mask_labels) != len(image_sizes) or len(class_labels) != len(image_sizes):
        raise ValueError(
            f"{len(image_sizes)} images, but {len(mask_labels)} mask_labels and {len(class_labels)} class_labels; "
            "give one of each per image."
        )
    prepared = []
    for i, (masks, classes) in enumerate(zip(mask_labels, class_labels, strict=True)):
        masks, classes = masks.to(device), classes.to(device)
        _check_shapes(masks, classes, i)
        _check_size(tuple(masks.shape[-2:]), image_sizes[i], given_size, i)
        rows = (classes != PADDING_LABEL).nonzero().flatten()
        classes = classes[rows].long()
        _check_classes(classes, num_classes, i)
        place = {"canvas": canvas, "valid_size": None if padding_counts else image_sizes[i]}
        make = _index_map_targets if masks.dtype == torch.int32 else _stack_targets
        prepared.append(make(masks, rows, classes, i, place))
    _warn_if_too_many(max((len(targets) for targets in prepared), default=0), num_queries)
    return prepared


def _check_shapes(masks: Tensor, classes: Tensor, i: int):
    index_map = masks.dtype == torch.int32
    if masks.dim() != 3 or classes.dim() != 1 or not (index_map or len(masks) == len(classes)):
        raise ValueError(
            f"Image {i}: mask_labels of shape {tuple(masks.shape)} and class_labels of shape {tuple(classes.shape)}; "
            "(N, height, width) and (N,) with the same N are needed, or with index maps (int32) (layers, height, "
            "width) and (N,)."
        )
    if classes.is_floating_point() or classes.dtype == torch.bool:
        raise ValueError(f"Image {i}: class_labels are {classes.dtype}; integers are needed.")
    if not index_map and masks.dtype not in (torch.bool, torch.uint8) and not masks.is_floating_point():
        raise ValueError(
            f"Image {i}: mask_labels are {masks.dtype}; give a mask per segment as bool, uint8 or floating, or index "
            "maps as int32."
        )


def _check_size(size: tuple[int, int], image_size: tuple[int, int], given_size: tuple[int, int], i: int):
    if size not in (tuple(given_size), tuple(image_size)):
        raise ValueError(
            f"Image {i}: mask_labels are {size}, but pixel_values are {tuple(given_size)} and the image's valid part "
            f"is {tuple(image_size)}; masks must have one of these sizes, or they would be silently shifted."
        )


def _check_classes(classes: Tensor, num_classes: int, i: int):
    wrong = classes[(classes < 0) | (classes >= num_classes)]
    if len(wrong):
        raise ValueError(
            f"Image {i}: class_labels {sorted(set(wrong.tolist()))} are outside 0..{num_classes - 1}; num_labels="
            f"{num_classes}. Ignored regions (such as label 255) belong to no mask: drop them, or name them to the "
            "image processor as ignore_index."
        )


def _stack_targets(masks: Tensor, rows: Tensor, classes: Tensor, i: int, place: dict) -> StackTargets:
    if masks.dtype != torch.bool and masks.numel() and len(rows):
        # Of the targets alone; what fills up may hold anything.
        low, high = masks.amin((1, 2))[rows].min().item(), masks.amax((1, 2))[rows].max().item()
        if not (0 <= low and high <= 1):
            raise ValueError(
                f"Image {i}: mask_labels have values from {low} to {high}; a mask holds 0 and 1 (or values between). "
                "Divide masks of 0 and 255 by 255; maps of segment indices are given as int32."
            )
    return StackTargets(masks, rows, classes, **place)


def _index_map_targets(ids: Tensor, rows: Tensor, classes: Tensor, i: int, place: dict) -> IndexMapTargets:
    """Targets from index maps, whose values are indices among the classes that do not only fill up."""
    count = len(classes)
    if count and int(rows[-1]) != count - 1:
        raise ValueError(
            f"Image {i}: class_labels {PADDING_LABEL} stand before other classes; with index maps (int32 mask_labels) "
            "they fill up at the end, because the maps hold the segments' indices."
        )
    # Which of [a wrong value, ignored, nothing, segment 0, 1, ...] each layer holds, in one copy to the host.
    kind = torch.where(ids == PADDING_LABEL, NOTHING, ids)
    kind = torch.where((kind < IGNORED) | (kind >= count), IGNORED - 1, kind)
    held = torch.zeros(len(ids), count + 3, dtype=torch.bool, device=ids.device)
    held.scatter_(1, (kind - (IGNORED - 1)).flatten(1).long(), True)
    on_host = held.cpu()
    if on_host[:, 0].any():
        wrong = ids[kind == IGNORED - 1].unique().tolist()
        raise ValueError(
            f"Image {i}: index maps (int32 mask_labels) hold {wrong[:10]}, but there are {count} class_labels; values "
            f"must be in 0..{count - 1}, or {NOTHING} (nothing), {IGNORED} (ignored), {PADDING_LABEL} (a layer that "
            "only fills up). Masks of 0 and 1 are given as uint8."
        )
    _check_segments(on_host[:, 3:], i)
    ignored = (ids == IGNORED).any(0) if on_host[:, 1].any() else None
    used = on_host[:, 3:].any(1).nonzero().flatten().tolist()
    layers = held[:, 3:].int().argmax(0) if count else rows
    return IndexMapTargets(ids, layers, used, classes, ignored=ignored, **place)


def _check_segments(held: Tensor, i: int):
    """held: (G, N) bool, whether a layer holds a segment."""
    layers = held.sum(0)
    if (layers > 1).any():
        segment = int(layers.argmax())
        raise ValueError(
            f"Image {i}: segment {segment} lies on layers {held[:, segment].nonzero().flatten().tolist()} of "
            "the index maps (int32 mask_labels), but a segment lies on one layer. If these are masks of 0 and 1, give "
            "uint8."
        )
    if (layers == 0).any():
        raise ValueError(
            f"Image {i}: segments {(layers == 0).nonzero().flatten().tolist()[:10]} of {held.shape[1]} class_labels "
            "have no pixel in the index maps (int32 mask_labels); drop segments that a crop left empty, with their "
            f"class_labels, or mark those that only fill up with class {PADDING_LABEL}."
        )


def _warn_if_too_many(most_targets: int, num_queries: int):
    if most_targets > num_queries:
        logger.warning_once(
            f"An image has {most_targets} targets but the model {num_queries} queries: the {num_queries} cheapest "
            "pairs are matched and the other targets are not learned. Raise num_queries to see them all."
        )
