"""Tiles cover an image, overlap as asked, and are shown to the model at one scale."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from m2f.inference.detection import Box
from m2f.inference.tile_grid import tile_boxes, tile_input_size, tile_weight


@given(st.integers(1, 300), st.integers(1, 300), st.integers(32, 128), st.integers(0, 64))
def test_tiles_cover_the_image_and_overlap(height, width, tile, overlap):
    overlap = min(overlap, tile // 2)
    boxes = tile_boxes((height, width), tile, overlap)
    covered = np.zeros((height, width), int)
    for box in boxes:
        assert (box.height, box.width) == (min(height, tile), min(width, tile))
        covered[box.slices] += 1
    assert covered.min() >= 1
    for edges in ([box.left for box in boxes], [box.top for box in boxes]):
        starts = sorted(set(edges))
        assert all(after - before <= tile - overlap for before, after in zip(starts, starts[1:], strict=False))


def test_numbers_by_hand():
    """1000 pixels in tiles of 400 with 100 in common: 3 tiles, whose starts lie 300 apart."""
    assert [box.left for box in tile_boxes((400, 1000), 400, 100)] == [0, 300, 600]
    assert tile_boxes((100, 200), 400, 100) == [(0, 0, 200, 100)]


def test_every_tile_is_scaled_as_a_whole_one():
    """Tiles of 256 become 512, twice the size; 800 by 100 are cut to 256 by 100, and become 512 by 200."""
    size = {"shortest_edge": 512, "longest_edge": 800}
    assert tile_input_size((256, 256), 256, size) == (512, 512)
    assert tile_input_size((100, 256), 256, size) == (200, 512)
    assert tile_input_size((1, 1), 256, {"shortest_edge": 32}) == (1, 1)


def test_weights():
    """Only borders inside the image fall: here the right one, over 4 pixels."""
    weight = tile_weight(Box(0, 0, 8, 3), (3, 20), 4)
    np.testing.assert_allclose(weight, np.tile([1, 1, 1, 1, 0.875, 0.625, 0.375, 0.125], (3, 1)))
    assert tile_weight(Box(4, 4, 12, 12), (20, 20), 0).min() > 0
