"""The detections of tiles become those of the image. The expected masks are those that the tiles were cut from."""

import time

import numpy as np
from tiled_objects import SIZE, TILES, assert_same, detection, full, merged, rectangle, seen_in

from m2f.inference.detection import Box, Detection
from m2f.inference.tile_grid import tile_boxes
from m2f.inference.tiled_instances import merge_detections


def test_objects_of_other_labels_stay_apart():
    masks = [rectangle(50, 20, 150, 150), rectangle(50, 20, 150, 150)]
    results = merged((masks[0], 0, 0.9), (masks[1], 1, 0.8))
    assert_same(results, masks)
    assert [result.label_id for result in results] == [0, 1]  # and the better score comes first


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


def test_thousands_of_objects_in_many_tiles_take_seconds():
    """10 000 squares of 20 pixels, 40 apart, in tiles of 128 that share 48: all pairs of detections are a billion."""
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
