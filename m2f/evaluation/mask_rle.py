"""Masks as COCO's compressed run-length encodings: dicts of "size" [H, W] and "counts" (str), column by column."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from m2f.image_processing.instance_masks import encode_coco_rle

# Width of the boundary as a share of the image's diagonal: Cheng et al., Boundary IoU, CVPR 2021, section 5.1 (2% for
# COCO) and the published code (bowenc0221/boundary-iou-api, the default).
BOUNDARY_RATIO = 0.02
_MIN_POLYGON_NUMBERS = 6  # x and y of three points; pycocotools would take 4 numbers for a box


def encode_masks(masks: Any) -> list[dict]:
    """The RLE of each of N masks.

    Args:
        masks: (N, H, W) array or tensor, nonzero inside; or a sequence of N RLEs, compressed or not, or (H, W) masks.

    Raises:
        ValueError: another shape; an RLE without "size" and "counts", or whose runs do not fill its size.
    """
    if not isinstance(masks, np.ndarray | torch.Tensor):
        return [_checked(mask) if isinstance(mask, Mapping) else encode_masks(mask[None])[0] for mask in masks]
    if masks.ndim != 3:
        raise ValueError(f"masks are of shape {tuple(masks.shape)}; (N, H, W) is needed")
    masks = torch.as_tensor(masks)
    return encode_coco_rle(masks if masks.dtype == torch.bool else masks != 0)


def encode_index_map(indices: np.ndarray, count: int) -> list[dict]:
    """The RLEs of the segments 0 to count-1 of an (H, W) map of segment indices, negative where there is none.

    All in one pass over the map, where `encode_masks` would need a mask of the image's size for each segment.
    """
    from pycocotools import mask as coco_mask

    height, width = indices.shape
    flat = np.asarray(indices).ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))
    ends = np.append(starts[1:], flat.size)
    owners = flat[starts]
    order = np.argsort(owners, kind="stable")
    # Where the runs of each segment begin in `order`.
    first = np.searchsorted(owners[order], np.arange(count + 1))
    uncompressed = []
    for begin, end in zip(first[:-1], first[1:], strict=True):
        runs = order[begin:end]
        borders = np.stack([starts[runs], ends[runs]], axis=1).ravel()
        counts = np.diff(borders, prepend=0, append=flat.size)
        if len(counts) > 1 and counts[-1] == 0:
            counts = counts[:-1]
        uncompressed.append({"size": [height, width], "counts": counts.tolist()})
    return [_as_text(rle) for rle in coco_mask.frPyObjects(uncompressed, height, width)] if uncompressed else []


def boundary_rle(rle: Mapping[str, Any], ratio: float = BOUNDARY_RATIO) -> dict:
    """The pixels of a mask that are within d pixels of its contour, where d = max(1, round(ratio * diagonal)).

    What is left after eroding the mask d times with a 3 x 3 square is taken away from it; the image's border is a
    contour. Source: as for `BOUNDARY_RATIO`.
    """
    from pycocotools import mask as coco_mask
    from scipy.ndimage import minimum_filter

    height, width = rle["size"]
    distance = max(1, round(ratio * math.hypot(height, width)))
    left, top, box_width, box_height = (int(edge) for edge in coco_mask.toBbox(rle))
    if min(box_width, box_height) <= 2 * distance:
        return dict(rle)  # nothing is left after the erosion
    box = np.s_[top : top + box_height, left : left + box_width]
    inside = coco_mask.decode(rle)[box]
    boundary = np.zeros((height, width), np.uint8, order="F")
    # d erosions with a 3 x 3 square are one with a square of 2d + 1. Outside of its box the mask is 0.
    boundary[box] = inside - minimum_filter(inside, size=2 * distance + 1, mode="constant", cval=0)
    return _as_text(coco_mask.encode(boundary))


def annotation_rle(segmentation: Any, size: Sequence[int]) -> dict:
    """The RLE of a COCO annotation's "segmentation": polygons, or an RLE, compressed or not.

    Args:
        size: (height, width) of the image.

    Raises:
        ValueError: neither of these, or an RLE of another size.
    """
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, Mapping):
        rle = _checked(segmentation)
        if rle["size"] != list(size):
            raise ValueError(f"an RLE is of size {rle['size']}, but the image {list(size)} (height, width)")
        return rle
    polygons = segmentation if isinstance(segmentation, list) else []
    if not polygons or any(len(polygon) < _MIN_POLYGON_NUMBERS for polygon in polygons):
        raise ValueError(f"a segmentation is neither a list of polygons nor an RLE: {str(segmentation)[:80]!r}")
    return _as_text(coco_mask.merge(coco_mask.frPyObjects(segmentation, *size)))


def _checked(rle: Mapping[str, Any]) -> dict:
    from pycocotools import mask as coco_mask

    if "size" not in rle or "counts" not in rle:
        raise ValueError(f'an RLE needs "size" and "counts", got the keys {sorted(rle)}')
    height, width = (int(edge) for edge in rle["size"])
    counts = rle["counts"]
    if isinstance(counts, str | bytes):
        return _as_text({"size": [height, width], "counts": counts})
    if sum(counts) != height * width:
        raise ValueError(f"an RLE's runs sum to {sum(counts)}, but its size is {height} x {width}")
    return _as_text(coco_mask.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width))


def _as_text(rle: Mapping[str, Any]) -> dict:
    """With `counts` as str, which json can write."""
    counts = rle["counts"]
    return {
        "size": [int(edge) for edge in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }
