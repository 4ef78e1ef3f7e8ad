"""Objects as COCO describes them, polygons and run lengths, as compact labels. pycocotools decodes; what it does not
check is checked here: it takes runs that do not fill the image, and polygons whose numbers make it write for ever."""

import math
import reprlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from m2f.data.segment_map import SegmentMap, pack_strips
from m2f.image_processing.label_values import IGNORED

_MIN_POLYGON_NUMBERS = 6  # x and y of three points
# Compressed counts: 6 bits in each character from "0" on, of which 5 are a part of the number, lowest first, and the
# highest says that more parts follow (maskApi.c of the COCO API).
_FIRST_CHARACTER, _MORE, _SIGN, _PART_BITS = 48, 32, 16, 5
_MAX_PARTS = 7  # 35 bits, more than any run has


class CocoObject(NamedTuple):
    """One annotation of an image."""

    id: int | str
    class_id: int
    segmentation: Any
    is_crowd: bool


def segments_of_objects(
    objects: Sequence[CocoObject], size: tuple[int, int], ignore_crowd: bool, where: str
) -> SegmentMap:
    """Compact labels of an image's objects in their order; crowd regions are no segments.

    Args:
        size: (H, W).
        ignore_crowd: pixels of crowd regions that belong to no object are `IGNORED`, otherwise background.
        where: what messages call the file with the annotations.

    Raises:
        ValueError: a segmentation that cannot be decoded; the message has the object's id.
    """
    single = [entry for entry in objects if not entry.is_crowd]
    segments = pack_strips((_decode(entry, size, where) for entry in single), [e.class_id for e in single], size)
    for entry in objects:
        if entry.is_crowd:
            strip, left = _decode(entry, size, where)  # broken crowd regions are reported either way
            ids = segments.ids[:, :, left : left + strip.shape[1]]
            if ignore_crowd:
                ids[0, (strip != 0) & (ids < 0).all(0)] = IGNORED
    return segments


def without_bad_parts(segmentation: Any) -> tuple[Any, int]:
    """The segmentation without the polygons of fewer than three points, [] among them, which annotation tools leave
    behind, and how many these are. Whatever else is wrong stays, and is refused when it is decoded.
    """
    if not isinstance(segmentation, list):
        return segmentation, 0
    kept = [part for part in segmentation if not _is_stray(part)]
    return kept, len(segmentation) - len(kept)


def left_out_remarks(total: int, hollow: int, parts: int) -> list[tuple[str, str]]:
    """(kind of finding, message) for what `without_bad_parts` took away.

    Args:
        total: annotations.
        hollow: those of them of which nothing is left.
        parts: polygons that others of them lost.
    """
    found = [(hollow, f"of {total} annotations have no polygon of three points (a box is no mask)")]
    found += [(parts, "polygons of other annotations have fewer than three points")]
    return [("left out", f"{count} {text}; left out") for count, text in found if count]


def decode_strip(segmentation: Any, height: int, width: int) -> tuple[np.ndarray, int]:
    """The columns that a mask lies in, (H, w) uint8 of 0 and 1, and the first of them; of an empty mask none.

    pycocotools decodes whole images; with the many small objects of a large one that would take most of the time.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...], in pixels; or {"size": [H, W], "counts": ...} with the
            counts compressed (str or bytes) or not (list of run lengths).

    Raises:
        ValueError: none of these; a polygon with fewer than three points, or with a coordinate that is no number or
            further outside the image than the image is large; runs that do not fill height x width.
    """
    from pycocotools import mask as coco_mask

    runs = _runs(segmentation, height, width)
    ends = np.cumsum(runs)
    on = np.flatnonzero(runs[1::2]) * 2 + 1
    if not on.size:
        return np.zeros((height, 0), np.uint8), 0
    first, end = int(ends[on[0] - 1]), int(ends[on[-1]])
    left, right = first // height, (end - 1) // height + 1
    counts = [first - left * height, *runs[on[0] : on[-1] + 1].tolist(), right * height - end]
    size = (height, right - left)
    return coco_mask.decode(coco_mask.frPyObjects({"size": size, "counts": counts}, *size)), left


def _runs(segmentation: Any, height: int, width: int) -> np.ndarray:
    """(n,) int64 lengths of the runs, off and on in turn, down one column after the other; they fill the image."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, dict):
        return _checked_runs(segmentation, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(
            f"segmentation is {reprlib.repr(segmentation)}; a list of polygons or an RLE is needed (a box is no mask)"
        )
    for polygon in segmentation:
        _check_polygon(polygon, height, width)
    return run_lengths(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))["counts"])


def run_lengths(counts: str | bytes) -> np.ndarray:
    """(n,) int64 lengths of the runs, off and on in turn, that compressed counts stand for; they may be negative.

    Raises:
        ValueError: another character than those from "0" to "o", an end within a number, or a number of too many
            characters.
    """
    if isinstance(counts, str):
        counts = counts.encode("utf-8", "replace")  # of more than 7 bits, where no valid character has more
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - _FIRST_CHARACTER
    if not codes.size:
        return codes
    if codes.min() < 0 or codes.max() >= 2 * _MORE:
        raise ValueError(f'the RLE\'s counts have other characters than "0" to "o": {counts[:40]!r}')
    ends = np.flatnonzero(codes < _MORE)
    lengths = np.diff(ends, prepend=-1)
    if codes[-1] >= _MORE or lengths.max() > _MAX_PARTS:
        raise ValueError(f"the RLE's counts end within a number, or have one that is too long: {counts[-40:]!r}")
    starts = ends - lengths + 1
    shifts = _PART_BITS * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & (_MORE - 1)) << shifts, starts)
    runs -= ((codes[ends] & _SIGN) > 0) * (1 << _PART_BITS * lengths)
    # From the fourth on, each is stored as the difference to the one before the last.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _is_stray(part: Any) -> bool:
    """Whether this is a polygon of fewer than three points."""
    return isinstance(part, list) and len(part) < _MIN_POLYGON_NUMBERS and all(type(n) in (int, float) for n in part)


def _decode(entry: CocoObject, size: tuple[int, int], where: str) -> tuple[np.ndarray, int]:
    try:
        return decode_strip(entry.segmentation, *size)
    except ValueError as error:
        raise ValueError(f"{where}, annotation {entry.id}: {error}") from error


def _checked_runs(rle: dict, height: int, width: int) -> np.ndarray:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list) or [height, width] != size or not all(type(side) is int for side in size):
        raise ValueError(f"the RLE's size is {reprlib.repr(size)}, but the image is {[height, width]} (height, width)")
    if isinstance(counts, list):
        if not all(type(run) is int for run in counts):  # isinstance would take True for 1
            raise ValueError(f"the RLE's counts are not all integers: {reprlib.repr(counts)}")
        lowest, total = min(counts, default=0), sum(counts)
    elif isinstance(counts, str | bytes):
        counts = run_lengths(counts)
        lowest, total = int(counts.min(initial=0)), int(counts.sum())
    else:
        raise ValueError(f"the RLE's counts are of type {type(counts).__name__}; a string or a list is needed")
    if lowest < 0:
        raise ValueError(f"the RLE has a run of {lowest} pixels; 0 or more is needed")
    if total != height * width:
        raise ValueError(f"the RLE's runs sum to {total}; {height} x {width} = {height * width} is needed")
    return np.asarray(counts, np.int64)


def _check_polygon(polygon: Any, height: int, width: int):
    if not isinstance(polygon, list) or len(polygon) < _MIN_POLYGON_NUMBERS or len(polygon) % 2:
        raise ValueError(
            f"a polygon needs x and y of at least 3 points, a flat list of an even count: {reprlib.repr(polygon)}"
        )
    if not all(type(number) in (int, float) for number in polygon):
        raise ValueError(f"a polygon's coordinates are not all numbers: {reprlib.repr(polygon)}")
    # Labels of another size or in other units would be cut to a border of the image without a word; and pycocotools'
    # time and memory grow with the coordinates.
    reach = max(height, width)
    lowest, highest = min(polygon), max(polygon)
    if not (-reach <= lowest and highest <= 2 * reach and not any(map(math.isnan, polygon))):
        raise ValueError(
            f"a polygon reaches from {reprlib.repr(lowest)} to {reprlib.repr(highest)} pixels, too far outside an "
            f"image of {height} x {width} (height x width)"
        )
