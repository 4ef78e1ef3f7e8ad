"""Mean and standard deviation of channels, beside NumPy's."""

import numpy as np
import pytest

from m2f.data.segment_map import Sample, SegmentMap
from m2f.image_processing.band_image import BandImage
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.training.channel_statistics import channel_fields, channel_statistics, settle_statistics


class Images:
    """Of two sizes, the last channel the same everywhere; the image `broken` cannot be read."""

    def __init__(self, count: int, broken: int | None = None):
        generator = np.random.default_rng(0)
        self.pixels = [generator.integers(0, 99, (4, 3 + i % 2, 4)).astype(np.float32) for i in range(count)]
        for pixels in self.pixels:
            pixels[:, :, 3] = 7
        self.broken = broken

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Sample:
        if index == self.broken:
            raise ValueError("it is cut off")
        return Sample(BandImage(self.pixels[index]), SegmentMap(np.zeros((1, 4, 4)), np.zeros(1)), "")

    def name_of(self, index: int) -> str:
        return f"{index}.npy"

    def all_pixels(self) -> np.ndarray:
        kept = [pixels for index, pixels in enumerate(self.pixels) if index != self.broken]
        return np.concatenate([pixels.reshape(-1, 4) for pixels in kept]).astype(np.float64)


def test_statistics_are_those_of_all_pixels():
    images = Images(5)
    mean, std, count = channel_statistics(images)
    np.testing.assert_allclose(mean, images.all_pixels().mean(0))
    np.testing.assert_allclose(std[:3], images.all_pixels().std(0)[:3])
    assert (std[3], count) == (1.0, 5)
    assert channel_statistics(Images(700))[2] == 500


def test_broken_images_are_errors_or_left_out():
    images = Images(3, broken=1)
    with pytest.raises(ValueError, match="image 1.npy cannot be read: it is cut off"):
        channel_statistics(images)
    mean, _, count = channel_statistics(images, skip_broken=True)
    np.testing.assert_allclose(mean, images.all_pixels().mean(0))
    assert count == 2
    with pytest.raises(ValueError, match="none of the 1 training images can be read"):
        channel_statistics(Images(1, broken=0), skip_broken=True)


def test_a_processor_gets_them_where_it_has_none():
    images, lines = Images(5), []
    processor = M2FImageProcessor(**channel_fields(4))
    settle_statistics(processor, images, False, lines.append)
    np.testing.assert_allclose(processor.image_mean, images.all_pixels().mean(0) / 255, atol=1e-6)
    assert lines[0].startswith(
        "mean (and standard deviation) of each channel, from 5 of 5 training images: 0.204 (0.116)"
    )
    assert processor(np.zeros((32, 32, 4), np.uint8))["pixel_values"][0].shape == (4, 800, 800)
    for other in (M2FImageProcessor(num_channels=4), M2FImageProcessor(**channel_fields(3))):
        before = other.image_mean
        settle_statistics(other, images, False, lines.append)
        assert other.image_mean == before and len(lines) == 1
