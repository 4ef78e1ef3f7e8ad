import numpy as np
import pytest
from PIL import Image

from m2f.data.segment_overlay import (
    distinct_colours,
    draw_masks,
    draw_segment_map,
    draw_segments,
    outline,
    side_by_side,
)

GREY = Image.new("L", (7, 6), 100)


def square(top: int, left: int, size: int = 4) -> np.ndarray:
    mask = np.zeros((6, 7), bool)
    mask[top : top + size, left : left + size] = True
    return mask


def test_colours_differ_and_stay_the_same():
    colours = distinct_colours(60)
    assert len(np.unique(colours, axis=0)) == 60
    np.testing.assert_array_equal(distinct_colours(10), colours[:10])
    assert distinct_colours(0).shape == (0, 3)


def test_outline_of_a_square_is_its_rim():
    expected = square(1, 1)
    expected[2:4, 2:4] = False
    np.testing.assert_array_equal(outline(square(1, 1)), expected)


def test_border_of_the_image_is_no_outline():
    assert not outline(np.ones((6, 7), bool)).any()


def test_masks_are_filled_outlined_and_the_first_lies_on_top():
    drawn = np.asarray(draw_masks(GREY, [square(1, 1), square(0, 2)], np.array([[255, 0, 0], [0, 255, 0]]), 0.5))
    np.testing.assert_array_equal(drawn[5, 6], [100, 100, 100])  # outside both
    np.testing.assert_array_equal(drawn[1, 1], [255, 0, 0])  # rim of the first, over the second
    # Inside both: half of red over (half of green over 100, or the second's rim).
    np.testing.assert_array_equal(drawn[2, 3], [(50 + 255) // 2, round((50 + 127.5) / 2), 25])
    np.testing.assert_array_equal(drawn[0, 2], [0, 255, 0])


def test_no_masks_leave_the_image_as_it_is():
    nothing = np.full((6, 7, 3), 100)
    np.testing.assert_array_equal(np.asarray(draw_masks(GREY, np.zeros((0, 6, 7)))), nothing)
    np.testing.assert_array_equal(np.asarray(draw_segments(GREY, np.full((6, 7), -1), [])), nothing)


@pytest.mark.parametrize("shape", [(1, 7, 6), (6, 7)])
def test_masks_of_another_size_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(N, 6, 7\), the image's size"):
        draw_masks(GREY, np.ones(shape))


def test_colours_must_be_as_many_as_masks():
    with pytest.raises(ValueError, match="2 colours for 1 masks"):
        draw_masks(GREY, square(0, 0)[None], distinct_colours(2))


def test_stuff_of_one_label_shares_a_colour_and_things_do_not():
    segmentation = np.zeros((6, 7), np.int32)
    segmentation[:, 0], segmentation[:, 2], segmentation[:, 4], segmentation[:, 6] = 1, 2, 3, 4
    segments = [{"id": i, "label_id": label} for i, label in ((1, 5), (2, 5), (3, 8), (4, 8))]
    drawn = np.asarray(draw_segments(GREY, segmentation, segments, stuff_label_ids=[8]))
    stuff_colour = distinct_colours(1)[0]
    # Columns one pixel wide are all outline, so they show the full colours.
    np.testing.assert_array_equal(drawn[2, 4], stuff_colour)
    np.testing.assert_array_equal(drawn[2, 6], stuff_colour)
    assert len({tuple(drawn[2, column]) for column in (0, 2, 4)}) == 3
    np.testing.assert_array_equal(drawn[2, 1], [100, 100, 100])


def test_panels_stand_in_a_row_under_their_titles():
    sheet = side_by_side([("left", GREY), ("right", Image.new("RGB", (5, 9), (0, 0, 255)))])
    assert sheet.size == (12, 9 + 16)
    assert sheet.getpixel((3, 16)) == (100, 100, 100)
    assert sheet.getpixel((8, 20)) == (0, 0, 255)
    assert np.asarray(sheet)[:16].min() < 128  # letters


def test_compact_labels_are_filled_outlined_and_the_first_layer_lies_on_top():
    ids = np.full((2, 6, 7), -1, np.int32)
    ids[0][square(1, 1)], ids[1][square(0, 2)], ids[:, :, 0] = 0, 1, -2
    colours = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)
    drawn = np.asarray(draw_segment_map(GREY, ids, colours, 0.5))
    # As draw_masks does it, but for the ignored column.
    expected = np.asarray(draw_masks(GREY, np.stack([square(1, 1), square(0, 2)]), colours, 0.5))
    np.testing.assert_array_equal(drawn[:, 1:], expected[:, 1:])
    # Stripes of 3 pixels on, 3 off.
    np.testing.assert_array_equal(drawn[:, 0, 0], [128, 128, 128, 100, 100, 100])


def test_touching_segments_of_one_layer_are_both_outlined():
    ids = np.zeros((1, 6, 7), np.int32)
    ids[:, :, 4:] = 1
    drawn = np.asarray(draw_segment_map(GREY, ids, np.array([[200, 0, 0], [0, 200, 0]], np.uint8), 0.5))
    np.testing.assert_array_equal(drawn[2, [3, 4]], [[200, 0, 0], [0, 200, 0]])
    np.testing.assert_array_equal(drawn[2, [2, 5]], [[150, 50, 50], [50, 150, 50]])


def test_layers_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"layers are \(1, 7, 6\); \(G, 6, 7\)"):
        draw_segment_map(GREY, np.zeros((1, 7, 6), np.int32), distinct_colours(1))
