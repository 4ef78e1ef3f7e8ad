"""Scores of tiles become the semantic map of the image."""

import numpy as np
import pytest
import torch

from m2f.image_processing.post_processing import semantic_segments
from m2f.inference.detection import Box
from m2f.inference.tile_grid import tile_boxes
from m2f.inference.tiled_semantic import SemanticStitching

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
