"""The segments of an image as entries of COCO's json files (https://cocodataset.org/#format-data)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from m2f.data.segment_map import SegmentMap
from m2f.data.segment_runs import segment_runs
from m2f.image_processing.label_values import IGNORED

VOID = 0  # the id of pixels without a segment
_ID_LIMIT = 1 << 24


def instance_entries(segments: SegmentMap, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The annotations of an image without their ids and that of the image, as compressed RLE.

    Segments without a pixel are left out. Ignored pixels are one crowd region, of the first category because a region
    needs one.

    Args:
        category_ids: of each class.
    """
    from pycocotools import mask as coco_mask

    height, width = size = segments.size
    columns = SegmentMap(np.ascontiguousarray(segments.ids.transpose(0, 2, 1)), segments.class_ids)
    found = segment_runs(columns).borders()
    categories = [category_ids[segments.class_ids[number]] for number in found]
    crowds = [0] * len(found)
    counts = [_counts(borders, height * width) for borders in found.values()]
    ignored = segments.ignored()
    if ignored.any() and category_ids:
        region = SegmentMap(ignored.T[None].astype(np.int32) - 1, np.zeros(1, np.int64))
        counts.append(_counts(segment_runs(region).borders()[0], height * width))
        categories, crowds = [*categories, category_ids[0]], [*crowds, 1]
    rles = coco_mask.frPyObjects([{"size": size, "counts": runs} for runs in counts], *size) if counts else []
    return [
        {
            "category_id": category,
            "segmentation": {"size": list(size), "counts": rle["counts"].decode("ascii")},
            "area": int(coco_mask.area(rle)),
            "bbox": coco_mask.toBbox(rle).tolist(),
            "iscrowd": crowd,
        }
        for category, crowd, rle in zip(categories, crowds, rles, strict=True)
    ]


def panoptic_entries(
    segments: SegmentMap, category_ids: Sequence[int], where: str
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The colours of an image's PNG, (H, W, 3) uint8 with id = R + 256 G + 65536 B, and its "segments_info".

    Segments without a pixel are left out. Other pixels have the id 0, which stands for pixels of no known class.

    Args:
        category_ids: of each class.
        where: what messages call the image.

    Raises:
        ValueError: segments overlap, or are more than a PNG has colours for.
    """
    ids, areas = segments.ids.max(0) + 1, segments.areas()
    ids[ids < 0] = VOID
    if ((segments.ids >= 0).sum(0) > 1).any():
        raise ValueError(f"{where!r} has segments that overlap, which COCO panoptic has no way to say")
    if len(areas) >= _ID_LIMIT:
        raise ValueError(f"{where!r} has {len(areas)} segments; COCO panoptic can tell {_ID_LIMIT - 1} apart")
    boxes = segment_runs(segments).boxes()
    infos = [
        {
            "id": number + 1,
            "category_id": category_ids[segments.class_ids[number]],
            "area": int(areas[number]),
            "bbox": [left, top, right - left, bottom - top],
            "iscrowd": 0,
        }
        for number, (left, top, right, bottom) in boxes.items()
    ]
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8), infos


def background(segments: SegmentMap) -> int:
    """Pixels that belong to no segment and are not ignored."""
    return int(((segments.ids < 0).all(0) & ~(segments.ids == IGNORED).any(0)).sum())


def _counts(borders: np.ndarray, pixels: int) -> list[int]:
    """Lengths of the runs, off and on in turn, of a mask whose runs have these starts and ends."""
    edges = borders.ravel()
    joined = np.flatnonzero(edges[1:-1:2] == edges[2::2]) * 2 + 1  # a run that ends where the next begins
    edges = np.delete(edges, np.concatenate([joined, joined + 1]))
    counts = np.diff(edges, prepend=0, append=pixels).tolist()
    return counts if counts[-1] else counts[:-1]
