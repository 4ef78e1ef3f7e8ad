"""The labels given to the model: checked, and brought to one form, before anything is computed.

Masks come in two forms, told apart by their type. int32: index maps, layers (G, H, W) whose values are segment indices
(m2f.data.segment_map.SegmentMap). Any other: one mask per segment, (N, H, W), with values in [0, 1].

A segment without a pixel is dropped with its class, in both forms, as the original's data loader drops it: nothing can
be learned of its mask, and a query that it is matched with would be taught a class that is not there.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from m2f.modeling_m2f.label_tensors import PADDING_LABEL, WIDE_INTEGERS, class_tensor, mask_tensor, signed
from m2f.modeling_m2f.mask_targets import IndexMapTargets, MaskTargets, StackTargets

logger = logging.get_logger(__name__)

NOTHING, IGNORED = -1, -2  # in index maps, as in m2f.image_processing.label_values


def prepare_targets(
    mask_labels: Sequence | Tensor,
    class_labels: Sequence | Tensor,
    image_sizes: list[tuple[int, int]],
    given_size: tuple[int, ...],
    canvas: tuple[int, ...],
    padding_counts: bool,
    num_classes: int,
    num_queries: int,
    device: torch.device,
    counted_by_labels: bool = False,
) -> list[MaskTargets]:
    """Targets of a batch on one canvas.

    Args:
        mask_labels: per image (G, H, W) int32, or (N, H, W) of any other type; tensors, arrays or lists, see
            `label_tensors.mask_tensor`; or one of these, batch first.
        class_labels: per image (N,) integers, likewise. -100 marks targets that only fill up.
        image_sizes: (h, w) of each image's real pixels.
        given_size: (H, W) of the `pixel_values` given to the model.
        canvas: (H, W) inside the network, `given_size` rounded up.
        padding_counts: whether padding is background of every mask, or takes part in nothing.
        counted_by_labels: whether somebody counted the step's targets without a look at the masks, so that one that is
            dropped is worth a warning.

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
    if isinstance(class_labels, Tensor):
        class_labels = class_labels.cpu()  # in one copy
    prepared: list[MaskTargets] = []
    for i, (masks, classes) in enumerate(zip(mask_labels, class_labels, strict=True)):
        masks, classes = mask_tensor(masks, given_size, i), class_tensor(classes, i)
        _check_shapes(masks, classes, i)
        _check_size(tuple(masks.shape[-2:]), image_sizes[i], given_size, i)
        rows = (classes != PADDING_LABEL).nonzero().flatten()
        classes = classes[rows]
        _check_classes(classes, num_classes, i)
        place = {"canvas": canvas, "valid_size": None if padding_counts else image_sizes[i]}
        make = _index_map_targets if masks.dtype == torch.int32 else _stack_targets
        prepared.append(make(masks, rows, classes, device, i, place))
        if counted_by_labels and len(prepared[-1]) < len(classes):
            _warn_of_wrong_count(i, len(classes) - len(prepared[-1]))
    _warn_if_too_many(max((len(targets) for targets in prepared), default=0), num_queries)
    return prepared


def countable_classes(class_labels: Sequence | Tensor, mask_labels: Sequence | Tensor | None = None) -> list[Tensor]:
    """The classes of the targets that `prepare_targets` keeps, per image and on the CPU; every target counts as one
    with pixels without `mask_labels`."""
    kept = []
    for i, classes in enumerate(class_labels):
        classes = class_tensor(classes, i)
        rows = (classes != PADDING_LABEL).nonzero().flatten()
        kept.append(classes[rows] if mask_labels is None else _kept_classes(mask_labels[i], classes, rows, i))
    return kept


def _kept_classes(masks: Any, classes: Tensor, rows: Tensor, i: int) -> Tensor:
    masks = mask_tensor(masks, (0, 0), i)
    _check_shapes(masks, classes, i)
    if masks.dtype == torch.int32:
        return classes[rows][_held(masks, len(rows)).cpu()[:, 3:].any(0)]
    return classes[rows][_ranges(masks)[1].cpu()[rows] != 0]


def _check_shapes(masks: Tensor, classes: Tensor, i: int):
    fits = masks.dim() == 3 and classes.dim() == 1
    if fits and masks.dtype == torch.int32:
        fits = len(masks) > 0 or not len(classes)
    elif fits:
        fits = len(masks) == len(classes)
    if not fits:
        raise ValueError(
            f"Image {i}: mask_labels of shape {tuple(masks.shape)} ({masks.dtype}) and class_labels of shape "
            f"{tuple(classes.shape)}; (N, height, width) and (N,) with the same N are needed, or with index maps "
            "(int32) (layers, height, width) and (N,)."
        )
    if masks.is_complex():
        raise ValueError(f"Image {i}: mask_labels are {masks.dtype}; a mask holds 0 and 1 (or values between).")


def _check_size(size: tuple[int, ...], image_size: tuple[int, ...], given_size: tuple[int, ...], i: int):
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


def _stack_targets(
    masks: Tensor, rows: Tensor, classes: Tensor, device: torch.device, i: int, place: dict
) -> StackTargets:
    is_wide = masks.dtype in WIDE_INTEGERS
    if not is_wide:
        masks = masks.to(device)
    low, high = _ranges(masks).cpu()[:, rows]  # of the targets alone; what fills up may hold anything
    if len(rows) and not (0 <= low.min() and high.max() <= 1):
        values = masks.cpu().double()[rows]
        raise ValueError(
            f"Image {i}: mask_labels ({masks.dtype}) have values from {values.min():g} to {values.max():g}; a mask "
            "holds 0 and 1 (or values between). Divide masks of 0 and 255 by 255; maps of segment indices are given "
            "as int32."
        )
    if is_wide:
        masks = signed(masks).to(torch.uint8).to(device)
    rows, classes = (x[high != 0].to(device) for x in (rows, classes))
    return StackTargets(masks, rows, classes, **place)


def _ranges(masks: Tensor) -> Tensor:
    """Smallest and largest value of each mask, (2, N)."""
    masks = masks.view(torch.uint8) if masks.dtype == torch.bool else signed(masks)
    if not masks.numel():
        return masks.new_zeros(2, len(masks))
    high = masks.amax((1, 2))
    return torch.stack([torch.zeros_like(high) if masks.dtype == torch.uint8 else masks.amin((1, 2)), high])


def _index_map_targets(
    ids: Tensor, rows: Tensor, classes: Tensor, device: torch.device, i: int, place: dict
) -> IndexMapTargets:
    """Targets from index maps, whose values are indices among the classes that do not only fill up."""
    ids, count = ids.to(device), len(classes)
    if count and int(rows[-1]) != count - 1:
        raise ValueError(
            f"Image {i}: class_labels {PADDING_LABEL} stand before other classes; with index maps (int32 mask_labels) "
            "they fill up at the end, because the maps hold the segments' indices."
        )
    held = _held(ids, count).cpu()
    if held[:, 0].any():
        wrong = ids[_kinds(ids, count) == _WRONG].unique().tolist()
        raise ValueError(
            f"Image {i}: index maps (int32 mask_labels) hold {wrong[:10]}, but there are {count} class_labels; values "
            f"must be in 0..{count - 1}, or {NOTHING} (nothing), {IGNORED} (ignored), {PADDING_LABEL} (a layer that "
            "only fills up). Masks of 0 and 1 are given as uint8."
        )
    _check_layers(held[:, 3:], i)
    ignored = (ids == IGNORED).any(0) if held[:, 1].any() else None
    kept = held[:, 3:].any(0)
    if not kept.all():
        ids, classes, held = _renumbered(ids, kept), classes[kept], held[:, [True] * 3 + kept.tolist()]
    used = held[:, 3:].any(1).nonzero().flatten().tolist()
    layers = held[:, 3:].int().argmax(0) if len(classes) else classes
    return IndexMapTargets(ids, layers.to(device), used, classes.to(device), ignored=ignored, **place)


_WRONG = IGNORED - 1


def _kinds(ids: Tensor, count: int) -> Tensor:
    """Index maps with every value that means nothing as NOTHING, and every wrong one as _WRONG."""
    kinds = torch.where(ids == PADDING_LABEL, NOTHING, ids)
    return torch.where((kinds < IGNORED) | (kinds >= count), _WRONG, kinds)


def _held(ids: Tensor, count: int) -> Tensor:
    """(G, 3 + N) bool: which of [a wrong value, ignored, nothing, segment 0, 1, ...] each layer holds."""
    held = torch.zeros(len(ids), count + 3, dtype=torch.bool, device=ids.device)
    return held.scatter_(1, (_kinds(ids, count) - _WRONG).flatten(1).long(), True)


def _check_layers(held: Tensor, i: int):
    """held: (G, N) bool, whether a layer holds a segment."""
    layers = held.sum(0)
    if (layers > 1).any():
        segment = int(layers.argmax())
        raise ValueError(
            f"Image {i}: segment {segment} lies on layers {held[:, segment].nonzero().flatten().tolist()} of "
            "the index maps (int32 mask_labels), but a segment lies on one layer. If these are masks of 0 and 1, give "
            "uint8."
        )


def _renumbered(ids: Tensor, kept: Tensor) -> Tensor:
    """Index maps with the indices that segments have among those that are kept, (N,) bool on the host."""
    numbers = (kept.cumsum(0) - 1).to(device=ids.device, dtype=ids.dtype)
    return torch.where(ids < 0, ids, numbers[ids.clamp(min=0).long()])


def _warn_of_wrong_count(i: int, dropped: int):
    logger.warning_once(
        f"Image {i}: {dropped} targets have no pixel and are dropped. If num_items_in_batch counts them, the loss of "
        "accumulated batches is not that of one batch of all: drop them before they are counted, as "
        "m2f.data.collation.Collator does, or count with the model's count_targets()."
    )


def _warn_if_too_many(most_targets: int, num_queries: int):
    if most_targets > num_queries:
        logger.warning_once(
            f"An image has {most_targets} targets but the model {num_queries} queries: the {num_queries} cheapest "
            "pairs are matched and the other targets are not learned. Raise num_queries to see them all."
        )
