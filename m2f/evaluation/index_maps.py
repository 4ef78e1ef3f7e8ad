"""Maps of segment ids, as post-processing and data sets give them, brought to one form: indices of segments."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from m2f.image_processing.label_values import IGNORED, NOTHING

# Ids that mean "no segment" in a segmentation: 0 in panoptic results, -1 in instance results.
_NO_SEGMENT = (0, -1)
# Below this a histogram of the ids replaces the sort of np.unique, which took 14 times as long (1024 x 1024, 300 ids).
_HISTOGRAM_LIMIT = 1 << 16


def as_array(values: Any, name: str) -> np.ndarray:
    """(H, W) integers from an array or a tensor on any device; float maps of whole numbers (transformers' own) pass.

    Raises:
        ValueError: another number of dimensions, or values that are no whole numbers.
    """
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.ndim != 2:
        raise ValueError(f"the {name} is of shape {array.shape}; an (H, W) map is needed")
    if array.dtype.kind == "f":
        whole = np.rint(array)
        if not np.array_equal(array, whole):
            raise ValueError(f"the {name} holds {array[array != whole][0]}, which is no whole number and so no id")
        array = whole.astype(np.int64)
    elif array.dtype.kind not in "iub":
        raise ValueError(f"the {name} is of type {array.dtype}; integers are needed")
    return array


def layers_of(target: Any) -> tuple[np.ndarray, np.ndarray]:
    """(G, H, W) `ids` and (N,) int64 `class_ids` of a target such as m2f.data's SegmentMap.

    Raises:
        ValueError: no such attributes, another shape, or an id outside of [-2, N).
    """
    if not hasattr(target, "ids") or not hasattr(target, "class_ids"):
        raise ValueError(f"a target needs ids and class_ids, as a SegmentMap has them, got {type(target).__name__}")
    ids, class_ids = np.asarray(target.ids), np.asarray(target.class_ids, np.int64)
    if ids.ndim != 3 or not len(ids):
        raise ValueError(f"the target's ids are of shape {ids.shape}; (G, H, W) is needed")
    if ids.size and not IGNORED <= ids.min() <= ids.max() < len(class_ids):
        raise ValueError(
            f"the target's ids are in [{ids.min()}, {ids.max()}], but must be in [-2, {len(class_ids) - 1}]: "
            f"it has {len(class_ids)} class_ids"
        )
    return ids, class_ids


def flatten_layers(layers: np.ndarray, allow_overlaps: bool = False) -> np.ndarray:
    """(H, W) of (G, H, W): the value >= 0 of the layer that has one, else `IGNORED` if a layer has it, else `NOTHING`.

    Args:
        allow_overlaps: where layers have different values >= 0, take the first one's.

    Raises:
        ValueError: there are such pixels, and they are not allowed.
    """
    flat = layers[0]
    for layer in layers[1:]:
        overlaps = int(((flat >= 0) & (layer >= 0) & (flat != layer)).sum())
        if overlaps and not allow_overlaps:
            raise ValueError(
                f"segments overlap on {overlaps} pixels, where this metric needs one answer; instances that overlap "
                "are measured by InstanceAveragePrecision, and PanopticQuality can be told to allow_overlaps"
            )
        nowhere = np.minimum(flat, layer)  # IGNORED wins over NOTHING
        flat = np.where(flat >= 0, flat, np.where(layer >= 0, layer, nowhere))
    return flat


def segments_of(result: Any) -> tuple[Any, Sequence[Mapping]]:
    """`segmentation` and `segments_info` of what post-processing returns for an image.

    Raises:
        ValueError: not a mapping with these keys.
    """
    if not isinstance(result, Mapping) or not {"segmentation", "segments_info"} <= set(result):
        got = f"the keys {sorted(result)}" if isinstance(result, Mapping) else type(result).__name__
        raise ValueError(f"a mapping with segmentation and segments_info is needed, got {got}")
    return result["segmentation"], result["segments_info"]


def segment_indices(segmentation: Any, segments_info: Sequence[Mapping]) -> np.ndarray:
    """(H, W) int64 positions in `segments_info` of the segments that an id map shows, `NOTHING` elsewhere.

    Args:
        segmentation: (H, W) ids of any size, such as COCO's 24-bit ones.
        segments_info: mappings with an "id" each.

    Raises:
        ValueError: an id twice in segments_info, or an id in the map that segments_info does not have (0 and -1 may
            mean "no segment").
    """
    ids = [int(info["id"]) for info in segments_info]
    if len(set(ids)) < len(ids):
        raise ValueError(f"segments_info has the id {max(ids, key=ids.count)} {max(map(ids.count, ids))} times")
    position_of = {segment_id: position for position, segment_id in enumerate(ids)}
    values, inverse = _distinct(as_array(segmentation, "segmentation"))
    unknown = [value for value in values.tolist() if value not in position_of and value not in _NO_SEGMENT]
    if unknown:
        raise ValueError(f"the segmentation holds the id {unknown[0]}, which segments_info does not have")
    return np.array([position_of.get(value, NOTHING) for value in values.tolist()])[inverse]


def _distinct(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values, ascending, and for each pixel the position of its value among them: np.unique."""
    lowest, highest = int(array.min(initial=0)), int(array.max(initial=0))
    if highest - lowest > _HISTOGRAM_LIMIT:
        return np.unique(array, return_inverse=True)
    shifted = array.astype(np.int64) - lowest
    present = np.bincount(shifted.ravel(), minlength=1) > 0
    return present.nonzero()[0] + lowest, (present.cumsum() - 1)[shifted]
