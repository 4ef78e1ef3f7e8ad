from dataclasses import replace

import numpy as np
import pytest
from labelled_samples import assert_consistent, make_sample

from m2f.data.random_resize_crop import (
    FixedSizeCrop,
    LargeScaleJitter,
    RandomCrop,
    RandomCropWithCategoryConstraint,
    ResizeAndCrop,
    ResizeShortestEdge,
)
from m2f.data.sample_geometry import ResizedView
from m2f.data.segment_map import SegmentMap


def draw_windows(crop, size: tuple[int, int], count: int = 200, made: tuple[int, int] = (6, 9)) -> list:
    view, generator = ResizedView(make_sample(*made), size), np.random.default_rng(0)
    return [crop.draw_window(view, generator) for _ in range(count)]


class CountingGenerator:
    """Counts the whole numbers that are drawn; a window takes two."""

    def __init__(self, seed: int = 0):
        self.generator, self.drawn = np.random.default_rng(seed), 0

    def integers(self, *args):
        self.drawn += 1
        return self.generator.integers(*args)


@pytest.mark.parametrize(
    ("size", "factor", "expected"),
    [
        # By hand: the factor times 1024 / 640 or 1024 / 480, whichever is smaller.
        ((480, 640), 1.0, (768, 1024)),
        ((640, 480), 1.0, (1024, 768)),
        ((480, 640), 0.1, (77, 102)),
        ((480, 640), 2.0, (1536, 2048)),
        ((3, 3), 0.5, (512, 512)),
        # An edge of 0.1 pixel becomes 1.
        ((1, 1000), 0.1, (1, 102)),
    ],
)
def test_jitter_fits_the_image_into_the_scaled_square(size, factor, expected):
    jitter = LargeScaleJitter((1024, 1024), factor, factor)
    assert jitter.draw_size(size, np.random.default_rng(0)) == expected


def test_jitter_of_a_size_that_is_no_square():
    """By hand: min(200 / 100, 300 / 400) = 0.75."""
    assert LargeScaleJitter((200, 300), 1, 1).draw_size((100, 400), np.random.default_rng(0)) == (75, 300)


def test_jitter_is_uniform_in_the_factor():
    generator, jitter = np.random.default_rng(0), LargeScaleJitter((1000, 1000))
    edges = np.array([jitter.draw_size((10, 10), generator)[0] for _ in range(2000)])
    # The recipe's range 0.1..2.0: mean 1.05, standard deviation 1.9 / sqrt(12) = 0.55.
    assert 100 <= edges.min() < 110 and 1990 < edges.max() <= 2000
    assert abs(edges.mean() - 1050) < 4 * 550 / 2000**0.5


@pytest.mark.parametrize(
    ("size", "edge", "expected"),
    [((480, 640), 800, (800, 1067)), ((640, 480), 800, (1067, 800)), ((300, 1000), 800, (400, 1333))],
)
def test_shortest_edge_and_its_limit(size, edge, expected):
    """By hand: 640 * 800 / 480 = 1066.7; 1000 * 800 / 300 would be 2667, so 300 * 1333 / 1000 = 399.9."""
    assert ResizeShortestEdge((edge,), 1333).draw_size(size, np.random.default_rng(0)) == expected


def test_every_edge_is_as_likely():
    generator, resize = np.random.default_rng(0), ResizeShortestEdge((10, 20, 30, 40), 100)
    drawn = [resize.draw_size((10, 10), generator) for _ in range(1000)]
    for edge in (10, 20, 30, 40):
        assert 195 < drawn.count((edge, edge)) < 305  # 250 +- 4 standard deviations of 13.7


@pytest.mark.parametrize("crop", [RandomCrop, FixedSizeCrop, RandomCropWithCategoryConstraint])
@pytest.mark.parametrize(
    ("size", "expected"), [((4, 3), (4, 3)), ((6, 9), (6, 9)), ((20, 2), (6, 2)), ((9, 9), (6, 9))]
)
def test_crop_has_the_size_and_never_pads(crop, size, expected):
    sample = crop(size)(make_sample(6, 9), np.random.default_rng(0))
    assert sample.segments.size == expected
    assert_consistent(sample)


def test_crop_is_taken_at_the_window():
    before, crop = make_sample(20, 30), RandomCrop((7, 5))
    after = crop(before, np.random.default_rng(5))
    top, left, height, width = crop.draw_window(ResizedView(before, (20, 30)), np.random.default_rng(5))
    expected = np.asarray(before.image)[top : top + height, left : left + width]
    np.testing.assert_array_equal(np.asarray(after.image), expected)


def test_random_crop_reaches_every_place():
    places = {(window.top, window.left) for window in draw_windows(RandomCrop((4, 7)), (6, 9))}
    assert places == {(row, column) for row in range(3) for column in range(3)}


def test_fixed_size_crop_moves_along_the_diagonal():
    """One number u in [0, 1) for both axes (detectron2's FixedSizeCrop): round(40 u), round(120 u)."""
    places = {(window.top, window.left) for window in draw_windows(FixedSizeCrop((20, 40)), (60, 160))}
    assert all(abs(left - 3 * top) <= 2 for top, left in places)
    assert min(places) < (3, 9) and max(places) > (37, 111)


def test_resize_and_crop_is_one_after_the_other():
    """The same numbers are drawn; each of PIL's two passes may round a pixel to the next value."""
    sample = make_sample(40, 60)
    resize, crop = LargeScaleJitter((50, 50), 0.5, 2.0), RandomCrop((30, 31))
    for seed in range(10):
        once = ResizeAndCrop(resize, crop)(sample, np.random.default_rng(seed))
        generator = np.random.default_rng(seed)
        expected = crop(resize(sample, generator), generator)
        np.testing.assert_array_equal(once.segments.ids, expected.segments.ids)
        np.testing.assert_array_equal(once.segments.class_ids, expected.segments.class_ids)
        assert np.abs(np.asarray(once.image).astype(int) - np.asarray(expected.image)).max() <= 2


def sample_of_columns(*class_of_column: int):
    """10 rows; a column of each segment, -1 for nothing and -2 for ignored."""
    numbers = sorted({c for c in class_of_column if c >= 0})
    row = [numbers.index(c) if c >= 0 else c for c in class_of_column]
    ids = np.tile(np.array(row, np.int32), (1, 10, 1))
    sample = make_sample(10, len(row), 0)
    return replace(sample, segments=SegmentMap(ids, np.array(numbers, np.int64)))


def windows_drawn(sample, size: tuple[int, int], max_area: float) -> int:
    """How many windows the crop looked at."""
    generator = CountingGenerator()
    RandomCropWithCategoryConstraint(size, max_area)(sample, generator)
    return generator.drawn // 2


@pytest.mark.parametrize(
    ("columns", "max_area", "tries"),
    [
        ((4, 4, 4, 7), 0.76, 1),  # 75% of class 4
        ((4, 4, 4, 7), 0.75, 10),  # must be less
        ((4, 4, 4, 4), 0.9, 10),  # one class alone
        ((4, 4, 4, 4), 1.0, 1),  # any window
        ((4, 7, -2, -2), 0.6, 1),  # 50% of what is labelled
        ((4, 4, 7, -2, -1, -1), 0.6, 10),  # 67% of what is labelled, 33% of the window
        ((4, -1, -1, -2), 0.6, 10),
        ((-1, -1, -2, -2), 0.6, 10),  # nothing is labelled
    ],
)
def test_category_constraint_counts_labelled_pixels(columns, max_area, tries):
    """The window is the whole image, so that it is taken at once or never."""
    assert windows_drawn(sample_of_columns(*columns), (10, len(columns)), max_area) == tries


def test_category_constraint_adds_up_segments_of_a_class():
    """Two segments of 50% each, of one class."""
    sample = sample_of_columns(0, 0, 1, 1)
    one_class = replace(sample, segments=SegmentMap(sample.segments.ids, np.array([3, 3])))
    assert windows_drawn(sample, (10, 4), 0.6) == 1 and windows_drawn(one_class, (10, 4), 0.6) == 10


def test_category_constraint_finds_the_border():
    """One place in 97 shows half of each class, and 3 a quarter or more: 10 draws find more of them than one."""
    sample, size = sample_of_columns(*[0] * 50, *[1] * 50), (10, 4)

    def mixed(max_area):
        crop, generator = RandomCropWithCategoryConstraint(size, max_area), np.random.default_rng(0)
        return sum(len(crop(sample, generator).segments.class_ids) == 2 for _ in range(300))

    # 300 * 3 / 97 = 9.3 with one draw; 300 * (1 - (94 / 97) ** 10) = 81 with ten. 4 standard deviations: 12 and 31.
    assert mixed(1.0) < 22 and 50 < mixed(0.9) < 112


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LargeScaleJitter((0, 5)), r"size must be \(height, width\), each at least 1 pixel, got \(0, 5\)"),
        (lambda: LargeScaleJitter((5, 5), 0.0, 1.0), "0 < min_scale <= max_scale is needed, got 0.0 and 1.0"),
        (lambda: LargeScaleJitter((5, 5), 2.0, 1.0), "got 2.0 and 1.0"),
        (lambda: ResizeShortestEdge((), 5), "edges and max_size must be at least 1"),
        (lambda: ResizeShortestEdge((5, 0), 5), "edges and max_size must be at least 1"),
        (lambda: ResizeShortestEdge((5,), 0), r"edges and max_size must be at least 1, got \(5,\) and 0"),
        (lambda: RandomCrop((5,)), "size must be"),
        (lambda: FixedSizeCrop((5, -1)), "size must be"),
        (
            lambda: RandomCropWithCategoryConstraint((5, 5), 0.0),
            r"single_category_max_area must be in \(0, 1\], got 0",
        ),
        (lambda: RandomCropWithCategoryConstraint((5, 0), 1.0), "size must be"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
