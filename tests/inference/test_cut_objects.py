"""Objects cut by tiles become whole again. The expected masks are those that the tiles were cut from."""

import pytest
from tiled_objects import SIZE, TILES, assert_same, detection, full, merged, rectangle, seen_in

from m2f.inference.tiled_instances import merge_detections


@pytest.mark.parametrize(
    "box",
    [
        (10, 10, 40, 40),  # in one tile
        (90, 90, 110, 110),  # in all four, whole
        (10, 50, 40, 150),  # across two
        (50, 50, 150, 150),  # across four
        (0, 0, 200, 200),  # everything
        (10, 70, 40, 82),  # a sliver of two columns in the second tile
        (70, 119, 130, 140),  # one column of it in the left tiles, a border at the row of the lower ones
    ],
)
def test_an_object_is_found_once_and_whole(box):
    mask = rectangle(*box)
    results = merged((mask, 3, 0.5))
    assert_same(results, [mask])
    assert results[0].label_id == 3 and results[0].area == mask.sum()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((50, 20, 100, 100), (50, 100, 100, 180)),  # side by side, the seam in the common columns
        ((50, 20, 90, 180), (90, 20, 130, 180)),  # one above the other, both across all four tiles
        ((50, 20, 100, 82), (50, 82, 100, 180)),  # the seam two columns behind a border
        ((50, 20, 100, 80), (50, 80, 100, 180)),  # and on a border
    ],
)
def test_two_objects_that_touch_stay_two(first, second):
    masks = [rectangle(*first), rectangle(*second)]
    assert_same(merged(*((mask, 0, 0.5) for mask in masks)), masks)


def test_pieces_of_an_object_that_is_whole_in_the_next_tile():
    """A U whose arms lie in the upper tiles and whose bend lies in the lower ones alone."""
    mask = rectangle(20, 20, 150, 30) | rectangle(20, 60, 150, 70) | rectangle(140, 20, 150, 70)
    upper = [
        detection(rectangle(20, 20, 120, 30), score=0.6),
        detection(rectangle(20, 60, 120, 70), score=0.7),
    ]
    lower = seen_in(TILES[2], mask, score=0.8)
    results = merge_detections(TILES, [upper, [], lower, []], SIZE)
    assert_same(results, [mask])


def test_score_is_that_of_the_largest_part():
    mask = rectangle(10, 20, 40, 130)  # 100 columns of it in the first tile, 50 in the second
    found = [seen_in(tile, mask, 0, score) for tile, score in zip(TILES, (0.6, 0.9, 0.5, 0.5), strict=True)]
    assert merge_detections(TILES, found, SIZE)[0].score == 0.6


def test_masks_that_agree_roughly_are_one():
    """The second tile's find is 3 rows off, of 30: 27 common rows of 33, more than half."""
    first = detection(rectangle(10, 50, 40, 120))
    second = detection(rectangle(13, 80, 43, 150))
    results = merge_detections(TILES, [[first], [second], [], []], SIZE)
    assert_same(results, [rectangle(10, 50, 40, 120) | rectangle(13, 80, 43, 150)])


def test_a_certain_part_is_not_joined_by_an_unsure_piece():
    """Across the border of the upper tile. A find in the lower one, a third as wide, lies in the part as far as both
    tiles see, and would lengthen it by 60 rows."""
    part = detection(rectangle(20, 20, 120, 50), score=0.9)
    unsure = detection(rectangle(80, 20, 180, 30), score=0.1)
    results = merge_detections(TILES, [[part], [], [unsure], []], SIZE)
    assert (full(results[0]) == rectangle(20, 20, 120, 50)).all()
    piece = unsure._replace(score=0.8)
    (result,) = merge_detections(TILES, [[part], [], [piece], []], SIZE)
    assert (full(result) == (rectangle(20, 20, 120, 50) | rectangle(80, 20, 180, 30))).all()


def test_a_part_has_one_partner_in_a_tile():
    """The second tile finds the rest of the object twice; the better one is joined, and the other left to itself."""
    left = detection(rectangle(30, 40, 70, 120), score=0.9)
    right = [detection(rectangle(30, 80, 70, 160), score=0.8), detection(rectangle(26, 80, 74, 190), score=0.3)]
    results = merge_detections(TILES, [[left], right, [], []], SIZE)
    assert (full(results[0]) == rectangle(30, 40, 70, 160)).all() and len(results) == 2
