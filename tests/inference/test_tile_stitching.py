"""Maps of tiles become maps of the image."""

import numpy as np
import pytest
import torch

from m2f.image_processing.post_processing import semantic_segments
from m2f.inference.detection import Box
from m2f.inference.tile_grid import tile_boxes
from m2f.inference.tile_stitching import PanopticTile, SemanticStitching, stitch_panoptic, tile_weight

SIZE = (50, 70)


@pytest.mark.parametrize(("tile", "overlap"), [(32, 8), (32, 16), (32, 0), (40, 5), (64, 32)])
def test_scores_that_agree_give_the_map_of_the_whole_image(tile, overlap):
    """Averages of equal scores are the scores, so the segments are those of `semantic_segments` for the whole."""
    scores = torch.rand(4, *SIZE, generator=torch.Generator().manual_seed(0))
    tiles = tile_boxes(SIZE, tile, overlap)
    stitching = SemanticStitching(tiles, SIZE, overlap)
    for box in tiles:
        stitching.add(box, scores[:, box.top : box.bottom, box.left : box.right])
    ids, segments = stitching.segments()
    expected_ids, expected = semantic_segments(scores)
    np.testing.assert_array_equal(ids, expected_ids.numpy())
    for segment, other in zip(segments, expected, strict=True):
        assert segment == {**other, "score": pytest.approx(other["score"], rel=1e-5)}
    assert not stitching._sums  # nothing is kept in memory


def test_scores_are_blended_in_the_overlap():
    """Two tiles of 60 columns with 20 in common, from 40 on. The left one says class 0 with 0.8 (class 1: 0), the
    right one class 1 with 0.2 (class 0: 0). With i = 0..19 the column in the zone, the left weight is
    (19.5 - i) / 20, the right one (i + 0.5) / 20, and class 0 wins while 0.8 (19.5 - i) > 0.2 (i + 0.5):
    i < 15.5, so up to column 55."""
    tiles = [Box(0, 0, 60, 5), Box(40, 0, 100, 5)]
    stitching = SemanticStitching(tiles, (5, 100), 20)
    for tile, values in zip(tiles, ((0.8, 0.0), (0.0, 0.2)), strict=True):
        stitching.add(tile, torch.tensor(values).view(2, 1, 1).expand(2, 5, 60))
    assert (stitching.labels[:, :56] == 0).all() and (stitching.labels[:, 56:] == 1).all()


def test_weights():
    """Only borders inside the image fall: here the right one, over 4 pixels."""
    weight = tile_weight(Box(0, 0, 8, 3), (3, 20), 4)
    np.testing.assert_allclose(weight, np.tile([1, 1, 1, 1, 0.875, 0.625, 0.375, 0.125], (3, 1)))
    assert tile_weight(Box(4, 4, 12, 12), (20, 20), 0).min() > 0


def panoptic_tile(width: int, segments: list[tuple[int, int, slice]]) -> PanopticTile:
    """10 rows; segments (label, score in hundredths, columns)."""
    ids, infos = np.zeros((10, width), np.int32), []
    for number, (label, score, columns) in enumerate(segments, start=1):
        ids[:, columns] = number
        infos.append({"id": number, "label_id": label, "was_fused": label >= 2, "score": score / 100})
    return PanopticTile(ids, infos)


def test_things_are_merged_and_stuff_goes_by_its_label():
    """Two tiles of 60 columns, 20 in common (40 to 59). A thing lies in columns 30 to 69; stuff 2 left of it, which
    both parts' other segments confirm; right of it the left tile sees nothing and the right one stuff 3, then void."""
    tiles, fused = [Box(0, 0, 60, 10), Box(40, 0, 100, 10)], {2, 3}
    left = panoptic_tile(60, [(2, 70, slice(0, 30)), (0, 90, slice(30, 60))])
    right = panoptic_tile(60, [(0, 60, slice(0, 30)), (3, 80, slice(30, 50))])
    ids, infos = stitch_panoptic(tiles, [left, right], (10, 100), 20, fused)
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
    ids, infos = stitch_panoptic(tiles, [left, right], (10, 100), 20, {2, 3})
    np.testing.assert_array_equal(ids[0], np.repeat([1, 2], [50, 50]))
    one = panoptic_tile(60, [(2, 90, slice(0, 60))])
    ids, infos = stitch_panoptic(tiles, [left, one], (10, 100), 20, {2, 3})
    assert infos == [{"id": 1, "label_id": 2, "was_fused": True, "score": 0.9}] and (ids == 1).all()


def test_stuff_that_things_hide_is_no_segment():
    tiles = [Box(0, 0, 60, 10), Box(40, 0, 100, 10)]
    # The left tile takes the thing's part in the zone for stuff; the right one sees the thing.
    left = panoptic_tile(60, [(2, 70, slice(45, 60))])
    right = panoptic_tile(60, [(0, 60, slice(0, 30))])
    ids, infos = stitch_panoptic(tiles, [left, right], (10, 100), 20, {2, 3})
    assert [info["label_id"] for info in infos] == [0]
    np.testing.assert_array_equal(ids[0], np.repeat([0, 1, 0], [40, 30, 30]))


def test_nothing_found():
    tiles = [Box(0, 0, 60, 10), Box(40, 0, 100, 10)]
    ids, infos = stitch_panoptic(tiles, [panoptic_tile(60, [])] * 2, (10, 100), 20, set())
    assert infos == [] and not ids.any()
