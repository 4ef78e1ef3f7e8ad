"""Panoptic segments of tiles become those of the image."""

import numpy as np

from m2f.inference.detection import Box
from m2f.inference.task_decoding import MappedSegments
from m2f.inference.tiled_panoptic import stitch_panoptic


def panoptic_tile(width: int, segments: list[tuple[int, int, slice]]) -> MappedSegments:
    """10 rows; segments (label, score in hundredths, columns)."""
    ids, infos = np.zeros((10, width), np.int32), []
    for number, (label, score, columns) in enumerate(segments, start=1):
        ids[:, columns] = number
        infos.append({"id": number, "label_id": label, "was_fused": label >= 2, "score": score / 100})
    return MappedSegments(ids, infos)


def test_things_are_merged_and_stuff_goes_by_its_label():
    """Two tiles of 60 columns, 20 in common (40 to 59). A thing lies in columns 30 to 69; stuff 2 left of it, which
    both parts' other segments confirm; right of it the left tile sees nothing and the right one stuff 3, then void."""
    tiles = [Box(0, 0, 60, 10), Box(40, 0, 100, 10)]
    left = panoptic_tile(60, [(2, 70, slice(0, 30)), (0, 90, slice(30, 60))])
    right = panoptic_tile(60, [(0, 60, slice(0, 30)), (3, 80, slice(30, 50))])
    ids, infos = stitch_panoptic(tiles, [left, right], (10, 100), 20)
    assert infos == [
        {"id": 1, "label_id": 0, "was_fused": False, "score": 0.9},  # equal parts: the better score
        {"id": 2, "label_id": 2, "was_fused": True, "score": 0.7},
        {"id": 3, "label_id": 3, "was_fused": True, "score": 0.8},
    ]
    np.testing.assert_array_equal(ids[0], np.repeat([2, 1, 3, 0], [30, 40, 20, 10]))


def test_stuff_of_both_sides_is_one_segment_and_the_better_placed_tile_decides():
    """Both tiles see nothing but stuff; they disagree in the zone (40 to 59), whose middle is the seam."""
    tiles = [Box(0, 0, 60, 10), Box(40, 0, 100, 10)]
    left, right = panoptic_tile(60, [(2, 70, slice(0, 60))]), panoptic_tile(60, [(3, 60, slice(0, 60))])
    ids, infos = stitch_panoptic(tiles, [left, right], (10, 100), 20)
    np.testing.assert_array_equal(ids[0], np.repeat([1, 2], [50, 50]))
    one = panoptic_tile(60, [(2, 90, slice(0, 60))])
    ids, infos = stitch_panoptic(tiles, [left, one], (10, 100), 20)
    assert infos == [{"id": 1, "label_id": 2, "was_fused": True, "score": 0.9}] and (ids == 1).all()


def test_stuff_that_things_hide_is_no_segment():
    tiles = [Box(0, 0, 60, 10), Box(40, 0, 100, 10)]
    # The left tile takes the thing's part in the zone for stuff; the right one sees the thing.
    left = panoptic_tile(60, [(2, 70, slice(45, 60))])
    right = panoptic_tile(60, [(0, 60, slice(0, 30))])
    ids, infos = stitch_panoptic(tiles, [left, right], (10, 100), 20)
    assert [info["label_id"] for info in infos] == [0]
    np.testing.assert_array_equal(ids[0], np.repeat([0, 1, 0], [40, 30, 30]))


def test_nothing_found():
    tiles = [Box(0, 0, 60, 10), Box(40, 0, 100, 10)]
    ids, infos = stitch_panoptic(tiles, [panoptic_tile(60, [])] * 2, (10, 100), 20)
    assert infos == [] and not ids.any()
