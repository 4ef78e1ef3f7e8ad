"""Objects cut by tiles become whole again. The expected masks are those that the tiles were cut from."""

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


def test_nothing_found():
    assert merge_detections(TILES, [[], [], [], []], SIZE) == []
