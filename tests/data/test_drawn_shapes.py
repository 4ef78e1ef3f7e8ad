"""Outlines and masks as COCO's segmentations; expected masks come from numpy's pixel centres and from pycocotools."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from m2f.data.drawn_shapes import ellipse, flat_points, joined, numbers, placed_mask, rectangle, runs_of_mask

SIZE = HEIGHT, WIDTH = 40, 60
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH] + 0.5


def rasterised(polygon: list[float]) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], HEIGHT, WIDTH))).astype(bool)


def test_a_rectangle_has_its_corners_in_any_order():
    expected = np.zeros(SIZE, bool)
    expected[5:20, 10:30] = True
    for corners in ((10, 5, 30, 20), (30, 20, 10, 5), (10, 20, 30, 5)):
        np.testing.assert_array_equal(rasterised(rectangle(*corners)), expected)
    turned = np.reshape(rectangle(10, 10, 30, 20, 90), (-1, 2))  # a quarter around (20, 15): 10 wide and 20 high
    np.testing.assert_allclose(np.sort(turned, 0), np.sort([[15, 5], [15, 25], [25, 5], [25, 25]], 0))
    # Clockwise as it is seen, y down: the upper left corner goes to the upper right.
    np.testing.assert_allclose(turned[0], [25, 5])


@pytest.mark.parametrize(("radii", "degrees"), [((12, 12), 0), ((20, 8), 0), ((18, 6), 30)])
def test_an_ellipse_is_that_of_its_equation(radii, degrees):
    turn = np.radians(degrees)
    x, y = COLUMNS - 30, ROWS - 20
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    mask = rasterised(ellipse(30, 20, *radii, degrees))
    for grown, holds in ((-0.8, lambda inner: mask[inner].all()), (0.8, lambda outer: not mask[~outer].any())):
        assert holds((along / (radii[0] + grown)) ** 2 + (across / (radii[1] + grown)) ** 2 <= 1)


def test_corners_grow_with_the_radius_up_to_a_limit():
    assert len(ellipse(0, 0, 0, 0)) == 32
    assert len(ellipse(0, 0, 1e9, 1)) <= 2 * 4096
    points = np.reshape(ellipse(0, 0, 500, 500), (-1, 2))
    middles = (points + np.roll(points, 1, 0)) / 2
    assert np.hypot(*middles.T).min() > 499.9
    with pytest.raises(ValueError, match="radii -1 and 2; 0 or more"):
        ellipse(0, 0, -1, 2)


def test_run_lengths_are_pycocotools_own():
    generator = np.random.default_rng(0)
    for mask in (generator.random((7, 9)) > 0.5, np.ones((3, 4)), np.zeros((3, 4)), np.eye(5), np.ones((1, 1))):
        encoded = coco_mask.frPyObjects(runs_of_mask(mask), *mask.shape)
        assert encoded == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def test_parts_are_joined():
    part, polygon = np.zeros(SIZE, bool), rectangle(10, 5, 30, 20)
    part[18:25, 25:40] = True
    whole = joined([part, [polygon], part], SIZE)
    decoded = coco_mask.decode(coco_mask.frPyObjects(whole, *SIZE)).astype(bool)
    np.testing.assert_array_equal(decoded, part | rasterised(polygon))
    assert joined([[polygon], [polygon]], SIZE) == [polygon, polygon]


def test_masks_are_placed_inside_the_image():
    placed = placed_mask(np.array([[0, 7]]), 3, 2, (4, 5))
    assert np.argwhere(placed).tolist() == [[2, 4]]
    for place in ((4, 2), (-1, 0), (0, 4)):
        with pytest.raises(ValueError, match="a mask of 1 x 2 at .* beyond the image of 4 x 5"):
            placed_mask(np.array([[0, 7]]), *place, (4, 5))


def test_numbers_are_finite():
    assert numbers([1, 2.5], 2) == [1.0, 2.5]
    for value in (None, True, "1", float("nan"), float("inf"), 10**30):
        with pytest.raises(ValueError, match="is no number"):
            numbers([value])
    with pytest.raises(ValueError, match="1 numbers are given, .* 2 are needed"):
        numbers([1], 2)
    assert flat_points([[1, 2], [3, 4]]) == [1, 2, 3, 4]
    for value in ({"x": 1}, [1, 2], [[1, 2, 3]], None):
        with pytest.raises(ValueError, match=r"a list of \[x, y\] is needed"):
            flat_points(value)
