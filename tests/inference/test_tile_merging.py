"""Objects cut by tiles become whole again. The expected masks are those that the tiles were cut from."""

import time

import numpy as np
import pytest
import torch

from m2f.inference.detection import Box, Detection, detections_from_masks
from m2f.inference.tile_grid import tile_boxes
from m2f.inference.tile_merging import merge_detections

SIZE = (200, 200)
TILES = tile_boxes(SIZE, 120, 40)  # starts 0 and 80: rows and columns 80 to 119 are common


def rectangle(top, left, bottom, right) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def detection(mask: np.ndarray, label: int = 0, score: float = 0.5) -> Detection:
    return detections_from_masks(torch.from_numpy(mask[None]), [{"label_id": label, "score": score}])[0]


def seen_in(tile: Box, mask: np.ndarray, label: int = 0, score: float = 0.5) -> list[Detection]:
    """What a perfect model finds of an object."""
    part = np.zeros(SIZE, bool)
    part[tile.slices] = mask[tile.slices]
    return [detection(part, label, score)] if part.any() else []


def merged(*objects: tuple[np.ndarray, int, float]) -> list[Detection]:
    found = [[part for thing in objects for part in seen_in(tile, *thing)] for tile in TILES]
    return merge_detections(TILES, found, SIZE)


def full(found: Detection) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[found.box.slices] = found.pixels
    return mask


def assert_same(results: list[Detection], masks: list[np.ndarray]):
    """In any order."""
    got = sorted(np.packbits(full(result)).tobytes() for result in results)
    assert got == sorted(np.packbits(mask).tobytes() for mask in masks)


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


def test_objects_of_other_labels_stay_apart():
    masks = [rectangle(50, 20, 150, 150), rectangle(50, 20, 150, 150)]
    results = merged((masks[0], 0, 0.9), (masks[1], 1, 0.8))
    assert_same(results, masks)
    assert [result.label_id for result in results] == [0, 1]  # and the better score comes first


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


def test_small_object_on_a_large_one_stays():
    """Both whole in the common zone's tiles; the small one is not cut."""
    large, small = rectangle(10, 20, 70, 180), rectangle(30, 90, 40, 105)
    assert_same(merged((large, 0, 0.5), (small, 0, 0.9)), [large, small])


def test_sliver_with_another_label_is_dropped():
    """What the first tile takes for class 1 is the start of an object of class 0, which the second tile sees whole."""
    whole = detection(rectangle(10, 100, 40, 180), label=0, score=0.5)
    sliver = detection(rectangle(10, 100, 40, 120), label=1, score=0.9)
    assert_same(merge_detections(TILES, [[sliver], [whole], [], []], SIZE), [rectangle(10, 100, 40, 180)])
    # But not an object that is whole itself.
    inside = detection(rectangle(10, 100, 40, 115), label=1, score=0.9)
    assert len(merge_detections(TILES, [[inside], [whole], [], []], SIZE)) == 2


def test_false_sliver_of_a_neighbour_does_not_join_two_objects():
    """The lower left tile fuses two objects of which it sees the ends; they are whole in the upper one, so they are
    not cut there, and stay two."""
    masks = [rectangle(60, 10, 90, 30), rectangle(60, 30, 90, 50)]
    fused = detection(rectangle(80, 10, 90, 50), score=0.3)
    upper = [part for mask in masks for part in seen_in(TILES[0], mask)]
    results = merge_detections(TILES, [upper, [], [fused], []], SIZE)
    kept = [full(result) for result in results if result.score == 0.5]
    assert len(kept) == 2 and all(any((mask == whole).all() for whole in masks) for mask in kept)


def test_an_uncut_find_wins_against_cut_ones():
    """Whole in the first tile, cut in the second one, which is surer of what it sees of it, with a wrong border."""
    whole = detection(rectangle(10, 70, 40, 100), score=0.5)
    cut = detection(rectangle(10, 80, 44, 104), score=0.9)
    assert_same(merge_detections(TILES, [[whole], [cut], [], []], SIZE), [rectangle(10, 70, 40, 100)])
    # But not one of hardly any score.
    unsure = whole._replace(score=0.1)
    assert merge_detections(TILES, [[unsure], [cut], [], []], SIZE)[0].score == 0.9


def test_the_better_of_two_whole_finds_stays():
    first, second = (
        detection(rectangle(85, 85, 110, 110), score=0.6),
        detection(rectangle(86, 84, 112, 109), score=0.7),
    )
    (result,) = merge_detections(TILES, [[first], [], [], [second]], SIZE)
    assert result.score == 0.7 and (full(result) == rectangle(86, 84, 112, 109)).all()


def test_a_blob_of_low_score_swallows_nothing_and_chains_nothing():
    """Three objects side by side, whole in the first tile; the second one sees the right one cut and whole in the
    zone, the others not, and has blobs over all that it sees, as the first one has."""
    masks = [rectangle(30, left, 60, left + 18) for left in (56, 76, 96)]
    blob = rectangle(30, 56, 60, 114)
    first = [detection(mask, score=0.8) for mask in masks] + [detection(blob, score=0.2)]
    second = [*seen_in(TILES[1], masks[1], score=0.6), *seen_in(TILES[1], masks[2], score=0.9)]
    second += seen_in(TILES[1], blob, score=0.3)
    results = merge_detections(TILES, [first, second, [], []], SIZE)
    sure = [result for result in results if result.score >= 0.5]
    assert_same(sure, masks)
    # Of the blobs that of the tile which told the objects apart is left, as it is without tiles, and the cut one not.
    assert [result.score for result in results if result.score < 0.5] == [0.2]


def test_nearly_the_same_in_one_tile_is_one():
    """26 of 34 rows are common (IoU 0.76, above 0.7) and 20 of 40 (0.5) are not enough."""
    object_, near, other = (rectangle(top, 10, top + 30, 60) for top in (10, 14, 20))
    found = [[detection(object_, score=0.9), detection(near, score=0.8), detection(other, score=0.7)], [], [], []]
    assert [result.score for result in merge_detections(TILES, found, SIZE)] == [0.9, 0.7]
    for mask in (object_, rectangle(10, 60, 40, 120)):  # whole, and cut
        labels = [[detection(mask, score=0.9), detection(mask, label=1, score=0.8)], [], [], []]
        assert len(merge_detections(TILES, labels, SIZE)) == 2


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


def test_thousands_of_objects_in_many_tiles_take_seconds():
    """10 000 squares of 20 pixels, 40 apart, in tiles of 128 that share 48: all pairs of finds are a billion."""
    size = (4000, 4000)
    tiles = tile_boxes(size, 128, 48)
    pixels = np.ones((20, 20), bool)
    found = []
    for tile in tiles:
        places = [range(-(-(start - 10) // 40), (end - 11) // 40 + 1) for start, end in (tile[::2], tile[1::2])]
        boxes = [Box(40 * x + 10, 40 * y + 10, 40 * x + 30, 40 * y + 30) for x in places[0] for y in places[1]]
        boxes = [box for box in boxes if box.common(tile) == box]
        found.append([Detection(0, 0.5, box, pixels) for box in boxes])
    start = time.process_time()
    assert len(merge_detections(tiles, found, size)) == 10_000
    assert time.process_time() - start < 20  # 2 s where nothing else runs


def test_nothing_found():
    assert merge_detections(TILES, [[], [], [], []], SIZE) == []
