"""Labels of whole masks, which no reader has in this form."""

from collections.abc import Iterable

import numpy as np

from m2f.data.segment_map import SegmentMap, pack_strips
from m2f.image_processing.label_values import IGNORED, NOTHING


def pack_masks(
    masks: Iterable[np.ndarray], class_ids: Iterable[int], size: tuple[int, int], ignored: np.ndarray | None = None
) -> SegmentMap:
    """Layers from masks that may overlap, as `pack_strips`.

    Args:
        masks: per segment (H, W), nonzero inside.
        class_ids: its class.
        size: (H, W).
        ignored: (H, W) bool, True where labels are unknown; such pixels belong to no segment.
    """
    segments = pack_strips(((mask, 0) for mask in masks), class_ids, size)
    if ignored is not None:
        segments.ids[:, ignored] = NOTHING
        segments.ids[0, ignored] = IGNORED
    return segments
