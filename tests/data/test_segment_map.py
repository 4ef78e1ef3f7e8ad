"""Compact labels against the masks they stand for; cases are drawn by hand, or made at random and compared with the
definition."""

import numpy as np
import pytest
from packed_masks import pack_masks

from m2f.data.segment_map import SegmentMap, pack_strips
from m2f.image_processing.label_values import IGNORED, NOTHING


def random_masks(count: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """(count, *size) uint8: rectangles, some of them empty, many of them overlapping."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *size), np.uint8)
    for mask in masks:
        top, left = rng.integers(0, size)
        mask[top : top + rng.integers(0, 6), left : left + rng.integers(0, 6)] = rng.choice([1, 255])
    return masks


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("order", ["C", "F"])
def test_packed_masks_come_back(seed, order):
    masks = random_masks(12, (9, 14), seed)
    packed = pack_masks((np.array(mask, order=order) for mask in masks), range(12), (9, 14))
    np.testing.assert_array_equal(packed.masks(), masks != 0)
    np.testing.assert_array_equal(packed.areas(), (masks != 0).sum((1, 2)))
    assert packed.size == (9, 14)
    assert (packed.masks().dtype, packed.ids.dtype, packed.class_ids.dtype) == (np.uint8, np.int32, np.int64)


@pytest.mark.parametrize("seed", range(5))
def test_strips_are_packed_like_their_masks(seed):
    """Strips are cut from the masks with some columns without a pixel, or without a column where there is no pixel."""
    masks, strips = random_masks(12, (9, 14), seed), []
    for mask in masks:
        columns = np.flatnonzero(mask.any(0))
        first, last = (max(0, columns[0] - 1), columns[-1] + 2) if columns.size else (3, 3)
        strips.append((mask[:, first:last], int(first)))
    packed = pack_strips(strips, range(12), (9, 14))
    np.testing.assert_array_equal(packed.ids, pack_masks(masks, range(12), (9, 14)).ids)
    np.testing.assert_array_equal(packed.class_ids, np.arange(12))


@pytest.mark.parametrize("seed", range(5))
def test_each_segment_goes_to_the_first_layer_that_is_free(seed):
    """The layers of the definition: where all pixels of the mask are free."""
    masks, layers, expected = random_masks(12, (9, 14), seed), [], []
    for mask in masks:
        place = next((i for i, layer in enumerate(layers) if not (layer & (mask != 0)).any()), len(layers))
        layers += [np.zeros((9, 14), bool)] * (place == len(layers))
        layers[place] = layers[place] | (mask != 0)
        expected.append(place if mask.any() else 0)
    packed = pack_masks(masks, range(12), (9, 14))
    np.testing.assert_array_equal(packed.layers(), expected)
    assert len(packed.ids) == max(expected) + 1


def test_segments_that_only_touch_share_a_layer_and_overlapping_ones_do_not():
    left, right, top = np.zeros((3, 4, 6), bool)
    left[:, :3] = right[:, 3:] = top[:1] = True
    packed = pack_masks([left, right, top], [7, 8, 7], (4, 6))
    np.testing.assert_array_equal(packed.ids[0], np.repeat([[0] * 3 + [1] * 3], 4, 0))
    np.testing.assert_array_equal(packed.ids[1], [[2] * 6] + [[NOTHING] * 6] * 3)
    np.testing.assert_array_equal(packed.class_ids, [7, 8, 7])


def test_ignored_pixels_belong_to_no_segment():
    masks, ignored = np.ones((2, 2, 3)), np.array([[1, 0, 0], [1, 0, 0]], bool)
    packed = pack_masks(masks, [0, 1], (2, 3), ignored)
    np.testing.assert_array_equal(packed.ids, [[[IGNORED, 0, 0]] * 2, [[NOTHING, 1, 1]] * 2])
    np.testing.assert_array_equal(packed.ignored(), ignored)
    np.testing.assert_array_equal(packed.areas(), [4, 4])


def test_without_segments_there_is_one_layer_of_nothing():
    packed = pack_masks([], [], (2, 3))
    assert packed.ids.shape == (1, 2, 3) and (packed.ids == NOTHING).all()
    assert packed.masks().shape == (0, 2, 3)
    assert packed.areas().tolist() == packed.layers().tolist() == []
    assert packed.class_ids.dtype == np.int64


def test_layers_of_segments_in_any_order():
    ids = np.array([[[1, NOTHING, 3]], [[NOTHING, 0, IGNORED]]], np.int32)
    np.testing.assert_array_equal(SegmentMap(ids, np.zeros(4, np.int64)).layers(), [1, 0, 0, 0])


def test_pixels_ignored_on_any_layer_are_ignored():
    ids = np.array([[[0, IGNORED, NOTHING]], [[NOTHING, 1, IGNORED]]], np.int32)
    np.testing.assert_array_equal(SegmentMap(ids, np.array([0, 0])).ignored(), [[False, True, True]])


def test_new_ids_drop_what_is_out_of_sight_and_number_the_rest_anew():
    """Layers 0 and 2 keep a segment, layer 1 loses all; the segments are 0 to 3 with the classes 5 to 8."""
    ids = np.array([[[0, 1, IGNORED]], [[2, NOTHING, NOTHING]], [[NOTHING, 3, 3]]], np.int32)
    cropped = SegmentMap(ids, np.array([5, 6, 7, 8])).with_ids(ids[:, :, 1:])
    np.testing.assert_array_equal(cropped.ids, [[[0, IGNORED]], [[1, 1]]])
    np.testing.assert_array_equal(cropped.class_ids, [6, 8])
    nothing = SegmentMap(ids, np.array([5, 6, 7, 8])).with_ids(np.full((3, 1, 2), NOTHING, np.int32))
    assert nothing.ids.shape == (1, 1, 2) and len(nothing.class_ids) == 0
