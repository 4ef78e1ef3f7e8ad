"""Samples of other than three channels: read, changed at random, listed and checked."""

import numpy as np
import pytest
from PIL import Image

from m2f.data.augmentation import RandomFlip, RandomTranspose
from m2f.data.color_jitter import SsdColorTransform
from m2f.data.dataset_paths import image_files
from m2f.data.image_inspection import inspect_image
from m2f.data.image_reading import ImageFile
from m2f.data.random_resize_crop import LargeScaleJitter, RandomCrop, ResizeAndCrop
from m2f.data.segment_map import Sample, SegmentMap
from m2f.image_processing.band_image import BandImage

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 5), np.uint8)


def npy(folder, pixels: np.ndarray):
    np.save(folder / "a.npy", pixels)
    return folder / "a.npy"


def read(path, channels: int, white_level=None) -> np.ndarray:
    return np.asarray(ImageFile(path, "a", white_level, channels).upright()[0])


def test_values_keep_their_bits(tmp_path):
    """Of integers white is found, and said; floats of a file may be in 0..1."""
    assert np.array_equal(read(npy(tmp_path, PIXELS), 5), PIXELS)
    deep = PIXELS.astype(np.uint16) * 39
    image, guess = ImageFile(npy(tmp_path, deep), "a", None, 5).upright()
    assert np.allclose(image, deep / 16383 * 255, atol=1e-4) and "white_level=16383" in guess
    assert np.allclose(read(npy(tmp_path, deep), 5, 10000), deep / 10000 * 255, atol=1e-4)
    image, guess = ImageFile(npy(tmp_path, PIXELS / 255), "a", None, 5).upright()
    assert np.allclose(image, PIXELS, atol=1e-4) and "floats up to 1" in guess
    with pytest.raises(ValueError, match="decode a as an image: values reach from -255.0 to"):
        read(npy(tmp_path, -PIXELS.astype(np.float32)), 5)
    assert np.array_equal(read(npy(tmp_path, PIXELS[:, :, 0]), 3), np.repeat(PIXELS[:, :, :1], 3, 2))


def sample() -> Sample:
    ids = (np.arange(12)[:, None] // 6 + np.zeros((12, 16))).astype(np.int32)[None]
    return Sample(BandImage(PIXELS), SegmentMap(ids, np.zeros(2, np.int64)), "a")


def test_geometry_moves_all_channels_with_the_labels():
    steps = [RandomFlip("horizontal", 1.0), RandomFlip("vertical", 1.0), RandomTranspose(1.0)]
    steps.append(ResizeAndCrop(LargeScaleJitter((12, 16)), RandomCrop((6, 9))))
    for step in steps:
        changed = step(sample(), np.random.default_rng(3))
        assert (changed.image.height, changed.image.width) == changed.segments.size
        for channel in range(5):
            alone = Sample(Image.fromarray(PIXELS[:, :, channel].copy()), sample().segments, "a")
            other = step(alone, np.random.default_rng(3))
            assert np.array_equal(changed.image.pixels[:, :, channel], other.image)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_brightness_and_contrast_change_alone(dtype):
    """One line for all channels, v -> factor * v + shift; of 30 images some stay as they are. None leaves 0..255."""
    seen = set()
    for seed in range(30):
        before = BandImage(np.linspace(60, 120, 40).reshape(4, 2, 5).astype(dtype))
        changed = SsdColorTransform()(Sample(before, sample().segments, "a"), np.random.default_rng(seed)).image
        x, y = before.pixels.ravel().astype(float), changed.pixels.ravel().astype(float)
        factor, shift = np.polyfit(x, y, 1)
        assert np.abs(factor * x + shift - y).max() < 2 and changed.pixels.dtype == dtype
        seen.add((abs(factor - 1) > 0.02, abs(shift) > 2))
    assert {(False, False), (True, False), (False, True)} <= seen


def test_an_array_beside_its_image_is_none(tmp_path):
    for name in ("a.png", "a.npy", "b.npy", "c.jpg"):
        (tmp_path / name).touch()
    assert image_files(tmp_path) == ["a.png", "b.npy", "c.jpg"]


class Reader:
    num_channels = 4

    def __init__(self, path):
        self.path = path

    def __getitem__(self, index: int) -> Sample:
        return ImageFile(self.path, "a", None, self.num_channels).sample(sample().segments, "a")

    def name_of(self, index: int) -> str:
        return "a"

    def image_path(self, index: int):
        return self.path


def test_a_check_tells_other_channels_from_labels_that_do_not_fit(tmp_path):
    (finding,) = inspect_image(Reader(npy(tmp_path, PIXELS)), "train", 0, None, 1).findings
    assert finding.kind == "broken image" and "has 5 channels, and 4 are expected" in finding.message
    (finding,) = inspect_image(Reader(npy(tmp_path, PIXELS[:9, :, :4])), "train", 0, None, 1).findings
    assert finding.kind == "bad labels"
    assert inspect_image(Reader(npy(tmp_path, PIXELS[:, :, :4])), "train", 0, None, 1).size == (12, 16)
