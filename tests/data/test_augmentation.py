"""Images and masks must be changed alike: the images here hold their masks' values."""

import numpy as np
import pytest
from PIL import Image

from m2f.data.augmentation import random_crop, random_flip, random_transpose
from m2f.data.coco_instances import InstanceSample


def make_sample(height: int = 6, width: int = 9) -> InstanceSample:
    """One mask per pixel value: pixel i of the image is i, and mask k covers the pixels with value % 5 == k."""
    values = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    masks = np.stack([values % 5 == k for k in range(5)]).astype(np.uint8)
    return InstanceSample(Image.fromarray(values).convert("RGB"), masks, np.arange(5), 3)


def assert_masks_follow_image(sample: InstanceSample):
    values = np.asarray(sample.image)[:, :, 0]
    np.testing.assert_array_equal(sample.masks, values[None] % 5 == sample.class_ids[:, None, None])


@pytest.mark.parametrize(("size", "expected"), [((4, 3), (4, 3)), ((6, 9), (6, 9)), ((20, 2), (6, 2))])
def test_crop_has_the_size_and_moves_masks_with_pixels(size, expected):
    sample = random_crop(make_sample(), size, np.random.default_rng(0))
    assert sample.masks.shape[-2:] == expected == (sample.image.height, sample.image.width)
    assert_masks_follow_image(sample)


def test_crop_leaves_out_instances_without_a_pixel():
    # A window of 1 x 2 pixels holds two successive values, so two of the five masks.
    sample = random_crop(make_sample(), (1, 2), np.random.default_rng(0))
    assert len(sample.masks) == len(sample.class_ids) == 2
    assert_masks_follow_image(sample)


def test_crop_reaches_every_place():
    generator = np.random.default_rng(0)
    corners = {np.asarray(random_crop(make_sample(), (4, 7), generator).image)[0, 0, 0] for _ in range(200)}
    # 3 x 3 places; the upper left pixel of each has the value 9 * row + column.
    assert corners == {9 * row + column for row in range(3) for column in range(3)}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda sample, rng: random_flip(sample, "horizontal", rng, 1.0), lambda values: values[:, ::-1]),
        (lambda sample, rng: random_flip(sample, "vertical", rng, 1.0), lambda values: values[::-1]),
        (lambda sample, rng: random_transpose(sample, rng, 1.0), lambda values: values.T),
    ],
)
def test_flips_and_transposition(change, expected):
    """The expected pixels are NumPy's own views of the image."""
    before = make_sample()
    after = change(before, np.random.default_rng(0))
    np.testing.assert_array_equal(np.asarray(after.image)[:, :, 0], expected(np.asarray(before.image)[:, :, 0]))
    assert_masks_follow_image(after)
    assert after.masks.flags["C_CONTIGUOUS"]


def test_probability_decides_and_the_seed_repeats_it():
    def flipped(seed):
        generator = np.random.default_rng(seed)
        before = make_sample()
        return [random_flip(before, "vertical", generator) is not before for _ in range(100)]

    assert 30 < sum(flipped(1)) < 70  # 4 standard deviations of 100 fair coins are 20
    assert flipped(1) == flipped(1) != flipped(2)


def test_unknown_axis_is_refused():
    with pytest.raises(ValueError, match="axis must be one of horizontal, vertical, got 'depth'"):
        random_flip(make_sample(), "depth", np.random.default_rng(0))
