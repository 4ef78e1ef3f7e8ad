import colorsys
from dataclasses import replace

import numpy as np
import pytest
from labelled_samples import make_sample
from PIL import Image

from m2f.data.color_jitter import SsdColorTransform, change_saturation_and_hue, scale_and_shift

YES, NO = 0.1, 0.9  # coins: below 1/2 a change is made


class Scripted:
    """A generator that gives the numbers it was made with, each to the method it is for."""

    def __init__(self, coins: list[float], uniforms: list[float] = (), integers: list[int] = ()):
        self.coins, self.uniforms, self.whole = iter(coins), iter(uniforms), iter(integers)
        self.ranges = []

    def random(self) -> float:
        return next(self.coins)

    def uniform(self, low: float, high: float) -> float:
        self.ranges.append((low, high))
        return next(self.uniforms)

    def integers(self, low: int, high: int, endpoint: bool) -> int:
        assert endpoint
        self.ranges.append((low, high))
        return next(self.whole)


def gray(*values: int) -> Image.Image:
    return Image.fromarray(np.repeat(np.array(values, np.uint8)[None, :, None], 3, 2))


def test_scale_and_shift_cut_off_and_limit():
    """By hand: 0.755 * 100 = 75.5 -> 75; 1.5 * 200 = 300 -> 255; 10 - 32 -> 0; 250 + 32 -> 255."""
    assert np.asarray(scale_and_shift(gray(100, 0), 0.755, 0))[0, :, 0].tolist() == [75, 0]
    assert np.asarray(scale_and_shift(gray(200), 1.5, 0))[0, 0].tolist() == [255, 255, 255]
    assert np.asarray(scale_and_shift(gray(10, 250, 40), 1, -32))[0, :, 1].tolist() == [0, 218, 8]
    assert np.asarray(scale_and_shift(gray(250), 1, 32))[0, 0, 2] == 255


@pytest.mark.parametrize(("factor", "turn"), [(1.5, 0), (0.5, 18), (1.0, -18), (1.3, 90)])
def test_saturation_and_hue_against_colorsys(factor, turn):
    """8 bits of H and S move an exact result by up to 255 / 60 (half a step of H) + 1.5 (S) + 1 (RGB)."""
    image = make_sample(40, 900).image  # more pixels than one piece
    found = np.asarray(change_saturation_and_hue(image, factor, turn)).reshape(-1, 3)
    pixels = np.asarray(image).reshape(-1, 3)
    some = np.random.default_rng(0).integers(0, len(pixels), 2000)
    for pixel, changed in zip(pixels[some] / 255, found[some], strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        exact = colorsys.hsv_to_rgb((hue + turn / 180) % 1, min(1, saturation * factor), value)
        assert np.abs(np.array(exact) * 255 - changed).max() < 7


def test_gray_stays_gray():
    values = np.arange(256)
    np.testing.assert_array_equal(np.asarray(change_saturation_and_hue(gray(*values), 1.5, 18))[0].T, [values] * 3)


def test_contrast_comes_before_or_after_saturation_and_hue():
    """A factor of 2 on 200 is limited to 255, so that it differs whether the saturation was halved before."""
    sample = replace(make_sample(1, 2, 1), image=Image.new("RGB", (2, 1), (200, 0, 0)))
    transform = SsdColorTransform(contrast=(0, 2), saturation=(0.25, 0.75))
    # Coins: order, brightness; then contrast, saturation, hue, or saturation, hue, contrast.
    first, last = Scripted([NO, NO, YES, YES, NO], [2.0, 0.5]), Scripted([YES, NO, YES, NO, YES], [0.5, 2.0])
    before, after = transform(sample, first).image, transform(sample, last).image
    assert first.ranges == [(0, 2), (0.25, 0.75)] and last.ranges == [(0.25, 0.75), (0, 2)]
    # By hand: 400 -> 255, then S 255 -> 127: 255 * (1 - 127/255) = 128, where float32 may land just below.
    assert np.abs(np.subtract(before.getpixel((0, 0)), (255, 128, 128))).max() <= 1
    # By hand: 200 * (1 - 127/255) = 100.4 -> 100, then times 2.
    assert after.getpixel((0, 0)) == (255, 200, 200)


def test_brightness_comes_first_and_the_ranges_are_those_of_the_recipe():
    """detectron2's ColorAugSSDTransform: brightness +-32, contrast and saturation 0.5..1.5, hue +-18."""
    script = Scripted([NO, YES, YES, YES, YES], [-32.0, 1.5, 1.5], [18])
    image = SsdColorTransform()(replace(make_sample(1, 1, 0), image=gray(40)), script).image
    assert script.ranges == [(-32, 32), (0.5, 1.5), (0.5, 1.5), (-18, 18)]
    assert image.getpixel((0, 0)) == (12, 12, 12)  # (40 - 32) * 1.5; 40 * 1.5 - 32 would be 28


def test_each_change_happens_half_of_the_time():
    """All four are left out with a probability of 1/16: in 500 draws 31 times, +- 5.4."""
    sample = make_sample(4, 4)
    generator = np.random.default_rng(0)
    unchanged = sum(SsdColorTransform()(sample, generator).image is sample.image for _ in range(500))
    assert 31 - 4 * 5.4 < unchanged < 31 + 4 * 5.4


def test_labels_stay_and_the_seed_repeats_the_image():
    sample = make_sample()
    once, again, other = (SsdColorTransform()(sample, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert once.segments is sample.segments
    assert np.array_equal(np.asarray(once.image), np.asarray(again.image))
    assert not np.array_equal(np.asarray(once.image), np.asarray(other.image))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"brightness": -1}, "brightness must not be negative"),
        ({"hue": 91}, "hue be in 0..90, got 32.0 and 91"),
        ({"contrast": (1.5, 0.5)}, "contrast must be two factors, 0 <= lowest <= highest, got 1.5 and 0.5"),
        ({"saturation": (-0.5, 0.5)}, "saturation must be two factors"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SsdColorTransform(**settings)
