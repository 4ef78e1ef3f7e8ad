import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_samples import assert_consistent, make_sample, single_segments

from m2f.data.augmentation import Compose, RandomFlip, RandomTranspose
from m2f.data.color_jitter import SsdColorTransform
from m2f.data.random_resize_crop import (
    FixedSizeCrop,
    LargeScaleJitter,
    RandomCrop,
    RandomCropWithCategoryConstraint,
    ResizeAndCrop,
    ResizeShortestEdge,
)
from m2f.data.sample_geometry import mirror

AUGMENTATIONS = (
    RandomFlip("horizontal"),
    RandomFlip("vertical"),
    RandomTranspose(),
    SsdColorTransform(),
    LargeScaleJitter((30, 40)),
    ResizeShortestEdge((5, 17, 40), 50),
    RandomCrop((9, 12)),
    FixedSizeCrop((20, 8)),
    RandomCropWithCategoryConstraint((9, 12)),
    ResizeAndCrop(LargeScaleJitter((30, 40)), FixedSizeCrop((30, 40))),
    ResizeAndCrop(ResizeShortestEdge((10, 30), 80), RandomCrop((12, 7))),
)


@given(
    chain=st.lists(st.sampled_from(AUGMENTATIONS), max_size=5),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    seed=st.integers(0, 999),
)
@settings(max_examples=200, deadline=None)
def test_any_chain_treats_labels_as_if_each_segment_went_alone(chain, size, seed):
    """The reference expands the labels: each segment alone goes through the same chain with the same seed. What comes
    out of the whole sample has the same classes over the same pixels."""
    before, augmentation = make_sample(*size, seed=seed), Compose(tuple(chain))
    after = augmentation(before, np.random.default_rng(seed))
    assert_consistent(after)
    found = dict(zip(after.segments.class_ids.tolist(), after.segments.masks(), strict=True))
    for class_id, single in single_segments(before).items():
        alone = augmentation(single, np.random.default_rng(seed))
        expected = alone.segments.ids[0] == 0
        np.testing.assert_array_equal(found.pop(class_id, np.zeros(expected.shape)), expected)
        np.testing.assert_array_equal(np.asarray(alone.image), np.asarray(after.image))
        np.testing.assert_array_equal(alone.segments.ignored(), after.segments.ignored())
    assert not found


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=repr)
def test_same_seed_same_sample_and_the_input_stays(augmentation):
    before = make_sample(24, 37)
    pixels, ids = np.asarray(before.image).copy(), before.segments.ids.copy()
    copy = pickle.loads(pickle.dumps(augmentation))  # as a worker gets it
    for seed in range(5):
        once, again = augmentation(before, np.random.default_rng(seed)), copy(before, np.random.default_rng(seed))
        np.testing.assert_array_equal(np.asarray(once.image), np.asarray(again.image))
        np.testing.assert_array_equal(once.segments.ids, again.segments.ids)
        assert once.name == before.name
    np.testing.assert_array_equal(np.asarray(before.image), pixels)
    np.testing.assert_array_equal(before.segments.ids, ids)


@pytest.mark.parametrize(
    ("augmentation", "axis"),
    [
        (RandomFlip("horizontal", 1.0), "horizontal"),
        (RandomFlip("vertical", 1.0), "vertical"),
        (RandomTranspose(1.0), "transpose"),
    ],
)
def test_flips_and_transposition_are_those_mirrors(augmentation, axis):
    """tests/data/test_sample_geometry.py compares the mirrors with NumPy."""
    before = make_sample()
    after, expected = augmentation(before, np.random.default_rng(0)), mirror(before, axis)
    np.testing.assert_array_equal(np.asarray(after.image), np.asarray(expected.image))
    np.testing.assert_array_equal(after.segments.ids, expected.segments.ids)


@pytest.mark.parametrize("make", [lambda p: RandomFlip("vertical", p), RandomTranspose])
def test_probability_decides(make):
    before, generator = make_sample(), np.random.default_rng(0)
    changed = sum(make(0.2)(before, generator) is not before for _ in range(400))
    assert 48 < changed < 112  # 80 +- 4 standard deviations of 8
    assert make(0.0)(before, generator) is before and make(1.0)(before, generator) is not before


def test_compose_goes_in_order():
    """A crop before a transposition has the crop's size turned round, after it the size itself."""
    sample, generator = make_sample(), np.random.default_rng(0)
    crop, turn = RandomCrop((4, 9)), RandomTranspose(1.0)
    assert Compose((crop, turn))(sample, generator).segments.size == (9, 4)
    assert Compose((turn, crop))(sample, generator).segments.size == (4, 9)
    assert Compose(())(sample, generator) is sample


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="axis must be one of horizontal, vertical, got 'depth'"):
        RandomFlip("depth")
    for make in (lambda p: RandomFlip(probability=p), RandomTranspose):
        with pytest.raises(ValueError, match=r"probability must be in \[0, 1\], got 1.5"):
            make(1.5)
        with pytest.raises(ValueError, match="got -0.1"):
            make(-0.1)
