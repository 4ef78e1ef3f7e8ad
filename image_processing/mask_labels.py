"""From a label map (one id per pixel) to the targets of the criterion: binary masks and their classes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Below this a histogram of the ids is cheaper than the sort of np.unique; for COCO's 24-bit ids it would be too large.
_HISTOGRAM_LIMIT = 1 << 16


def binary_masks_and_classes(
    label_map: np.ndarray,
    canvas_size: tuple[int, int],
    instance_id_to_semantic_id: Mapping[int, int] | None = None,
    ignore_index: int | None = None,
    do_reduce_labels: bool = False,
    num_labels: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One mask for each id in the map, in ascending order of the ids.

    Rules, in this order:
    1. A pixel whose value in the map is `ignore_index` belongs to no mask. The value is compared as it stands in the
       file, whatever the map holds; None ignores nothing. transformers compares after `do_reduce_labels`, which with
       more than 255 classes drops class 256 in place of 255.
    2. With `instance_id_to_semantic_id` the map holds segment ids, and each one's class is looked up. Without it the
       map holds classes.
    3. `do_reduce_labels` shifts classes, never segment ids: class 0 belongs to no mask, the others are reduced by 1.
       A segment id 0 without a class is background then. (transformers shifts segment ids too, so that a segment with
       id 0 is lost.)

    Args:
        label_map: (h, w) integers.
        canvas_size: (H, W) >= (h, w); the padding at the right and at the bottom belongs to no mask. (transformers
            pads the masks with `ignore_index`, which makes 255 a target value.)
        instance_id_to_semantic_id: class of each segment id; json has the ids as text, which are taken as well.
        ignore_index: value of the pixels that are left out.
        do_reduce_labels: whether class 0 means background.
        num_labels: number of classes, if known, to check against.

    Returns:
        (N, H, W) uint8 masks of 0 and 1, and (N,) int64 classes. N is 0 where every pixel is ignored. transformers
        returns float32 masks of four times the size; the model accepts both.

    Raises:
        TypeError: `instance_id_to_semantic_id` is no dict.
        ValueError: a segment id without a class or with two, a class that is no integer, below 0 or not below
            `num_labels`.
    """
    ids = _ids_of(label_map)
    if ignore_index is not None:
        _warn_if_ignored_id_has_class(ids, ignore_index, instance_id_to_semantic_id)
        ids = ids[ids != ignore_index]
    if instance_id_to_semantic_id is not None:
        ids, classes = _look_up(ids, instance_id_to_semantic_id, do_reduce_labels)
    else:
        classes = ids.astype(np.int64)
    if do_reduce_labels:
        ids, classes = ids[classes != 0], classes[classes != 0] - 1
    _check_classes(classes, num_labels, do_reduce_labels)
    return _paint_masks(label_map, ids, canvas_size), torch.from_numpy(classes)


def _ids_of(label_map: np.ndarray) -> np.ndarray:
    """The distinct values, ascending."""
    if label_map.min() >= 0 and label_map.max() < _HISTOGRAM_LIMIT:
        return np.flatnonzero(np.bincount(label_map.ravel()))
    return np.unique(label_map)


def _warn_if_ignored_id_has_class(ids: np.ndarray, ignore_index: int, class_of: Mapping[int, int] | None) -> None:
    if class_of is not None and ignore_index in ids and _key_of(ignore_index, class_of) is not None:
        logger.warning_once(
            f"segment id {ignore_index} has a class in instance_id_to_semantic_id, but is the ignore_index too: its "
            "pixels are left out. Pass another ignore_index (or None) where it is a segment."
        )


def _look_up(ids: np.ndarray, class_of: Mapping, background_is_zero: bool) -> tuple[np.ndarray, np.ndarray]:
    """The ids that have a class, and the classes."""
    if background_is_zero and _key_of(0, class_of) is None:
        ids = ids[ids != 0]
    found = [_key_of(int(segment_id), class_of) for segment_id in ids]
    keys = [key for key in found if key is not None]
    unmapped = [int(segment_id) for segment_id, key in zip(ids, found, strict=True) if key is None]
    if unmapped:
        shown = ", ".join(map(str, unmapped[:10])) + (", ..." if len(unmapped) > 10 else "")
        raise ValueError(
            f"{len(unmapped)} ids of the segmentation map are not in instance_id_to_semantic_id: {shown}. Add them, "
            "or pass the value of unlabelled pixels as ignore_index"
        )
    return ids, np.array([_class_of(class_of[key], key) for key in keys], dtype=np.int64)


def _key_of(segment_id: int, class_of: Mapping) -> int | str | None:
    """How the dict writes an id: as a number, or as text, as json has it; None if it is not there.

    Looked up one by one, because the dict may be that of a whole dataset.
    """
    if not isinstance(class_of, Mapping):
        raise TypeError(
            f"instance_id_to_semantic_id has a {type(class_of).__name__}; a dict of segment id -> class is expected"
        )
    keys: list[int | str] = [key for key in (segment_id, str(segment_id)) if key in class_of]
    if len(keys) == 2 and class_of[keys[0]] != class_of[keys[1]]:
        raise ValueError(
            f"instance_id_to_semantic_id has segment id {segment_id} twice: as a number of class {class_of[keys[0]]}, "
            f"and as text of class {class_of[keys[1]]}"
        )
    return keys[0] if keys else None


def _class_of(value: Any, key: int | str) -> int:
    try:
        if int(value) == float(value):
            return int(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"instance_id_to_semantic_id[{key!r}] is {value!r}; a class is an integer")


def _check_classes(classes: np.ndarray, num_labels: int | None, reduced: bool) -> None:
    limit = np.inf if num_labels is None else num_labels
    wrong = classes[(classes < 0) | (classes >= limit)]
    if wrong.size:
        expected = "0 or more" if num_labels is None else f"0 to {num_labels - 1} (num_labels is {num_labels})"
        shift = " after do_reduce_labels" if reduced else ""
        raise ValueError(
            f"the segmentation map has the labels {sorted(set(wrong.tolist()))}{shift}; expected {expected}. Pass "
            "ignore_index if such a value marks unlabelled pixels (255 in most data sets), or correct num_labels"
        )


def _paint_masks(label_map: np.ndarray, ids: np.ndarray, canvas_size: tuple[int, int]) -> torch.Tensor:
    height, width = label_map.shape
    masks = np.zeros((len(ids), *canvas_size), dtype=np.uint8)
    for mask, segment_id in zip(masks, ids, strict=True):
        np.equal(label_map, segment_id, out=mask[:height, :width].view(np.bool_))
    return torch.from_numpy(masks)
