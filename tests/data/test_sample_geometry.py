import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_samples import assert_consistent, make_sample
from packed_masks import pack_masks
from PIL import Image

from m2f.data.sample_geometry import ResizedView, Window, mirror, nearest_indices, resize, resize_ids
from m2f.data.segment_map import Sample, SegmentMap

sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


@given(old=st.integers(1, 400), new=st.integers(1, 400))
@settings(max_examples=200, deadline=None)
def test_nearest_is_that_of_pil(old, new):
    """PIL sums up float steps, so that it decides by chance where a centre is on the border of two pixels; those are
    left out."""
    line = Image.fromarray(np.arange(old, dtype=np.int32)[None])
    expected = np.asarray(line.resize((new, 1), Image.Resampling.NEAREST))[0]
    clear = (2 * np.arange(new) + 1) * old % (2 * new) != 0
    np.testing.assert_array_equal(nearest_indices(0, new, new, old)[clear], expected[clear])


def test_nearest_takes_the_pixel_behind_the_border_where_a_centre_is_on_it():
    """By hand: centres of 3 pixels over 6 are at 1, 3 and 5; those of 2 from the second on of 4 over 2 at 0.75..."""
    assert nearest_indices(0, 3, 3, 6).tolist() == [1, 3, 5]
    assert nearest_indices(1, 2, 4, 2).tolist() == [0, 1]


@given(size=sizes, new=sizes, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_resized_labels_are_those_of_masks_resized_one_by_one(size, new, seed):
    """Each mask is taken out and resized alone, by the rule that the test above holds against PIL."""
    before = make_sample(*size, seed=seed)
    after = resize(before, new)
    assert_consistent(after)
    rows, columns = (nearest_indices(0, n, n, old) for n, old in zip(new, size, strict=True))
    masks = dict(zip(before.segments.class_ids.tolist(), before.segments.masks(), strict=True))
    expected = {class_id: mask[rows][:, columns] for class_id, mask in masks.items()}
    expected = {class_id: mask for class_id, mask in expected.items() if mask.any()}
    found = dict(zip(after.segments.class_ids.tolist(), after.segments.masks(), strict=True))
    assert found.keys() == expected.keys()
    for class_id, mask in expected.items():
        np.testing.assert_array_equal(found[class_id], mask)
    np.testing.assert_array_equal(after.segments.ignored(), before.segments.ignored()[rows][:, columns])


@given(size=sizes, new=sizes, seed=st.integers(0, 99), data=st.data())
@settings(max_examples=100, deadline=None)
def test_window_of_a_view_is_the_crop_of_the_whole(size, new, seed, data):
    """The reference resizes everything with PIL and crops then. PIL holds a box in float32, so that each of its
    two passes may round a pixel to the next value."""
    sample = make_sample(*size, seed=seed)
    top, left = data.draw(st.integers(0, new[0] - 1)), data.draw(st.integers(0, new[1] - 1))
    window = Window(top, left, data.draw(st.integers(1, new[0] - top)), data.draw(st.integers(1, new[1] - left)))
    cut = ResizedView(sample, new).cut(window)
    assert_consistent(cut)
    part = (slice(top, top + window.height), slice(left, left + window.width))
    pixels = np.asarray(sample.image.resize(new[::-1], Image.Resampling.BILINEAR))[part]
    assert np.abs(np.asarray(cut.image).astype(int) - pixels).max() <= 2
    ids = resize_ids(sample.segments.ids, new)[(slice(None), *part)]
    expected = sample.segments.with_ids(ids)
    np.testing.assert_array_equal(cut.segments.ids, expected.ids)
    np.testing.assert_array_equal(cut.segments.class_ids, expected.class_ids)


def test_whole_view_of_the_same_size_is_the_sample_itself():
    sample = make_sample()
    assert ResizedView(sample, sample.segments.size).cut() is sample
    assert resize_ids(sample.segments.ids, sample.segments.size) is sample.segments.ids


@pytest.mark.parametrize("new", [(64, 64), (23, 23), (231, 131), (37, 303)])
def test_labels_stay_over_their_pixels(new):
    """A disc drawn in the image and labelled has the same middle in both after a resize. The rule floor(i * old / new)
    would move the labels by half a pixel of the new grid."""
    rows, columns = np.mgrid[:100, :100]
    disc = (rows - 47) ** 2 + (columns - 52) ** 2 < 30**2
    image = Image.fromarray(np.repeat(disc[:, :, None] * np.uint8(255), 3, 2))
    after = resize(Sample(image, pack_masks([disc], [0], (100, 100)), "disc"), new)
    brightness, mask = np.asarray(after.image)[:, :, 0] / 255, after.segments.masks()[0]
    for axis in (0, 1):
        places = np.arange(new[axis]) + 0.5
        middles = [(weights.sum(1 - axis) * places).sum() / weights.sum() for weights in (brightness, mask)]
        assert abs(middles[0] - middles[1]) < 0.2


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ("horizontal", lambda values: values[:, ::-1]),
        ("vertical", lambda values: values[::-1]),
        ("transpose", lambda values: values.swapaxes(0, 1)),
    ],
)
def test_mirrors_move_labels_with_pixels(axis, expected):
    """The expected pixels are NumPy's own views of the image."""
    before = make_sample()
    after = mirror(before, axis)
    assert_consistent(after)
    np.testing.assert_array_equal(np.asarray(after.image), expected(np.asarray(before.image)))
    for layer, old in zip(after.segments.ids, before.segments.ids, strict=True):
        np.testing.assert_array_equal(layer, expected(old))
    np.testing.assert_array_equal(after.segments.class_ids, before.segments.class_ids)


def test_image_without_a_segment_keeps_one_layer():
    sample = Sample(Image.new("RGB", (8, 6)), SegmentMap(np.full((1, 6, 8), -1, np.int32), np.zeros(0, np.int64)), "")
    after = resize(sample, (3, 4))
    assert after.segments.ids.shape == (1, 3, 4) and len(after.segments.class_ids) == 0
    assert_consistent(after)
