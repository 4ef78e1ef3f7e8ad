"""Images of any number of channels beside PIL's, channel by channel."""

import numpy as np
import pytest
from PIL import Image

from m2f.image_processing.band_image import BandImage, check_bands, picture_of

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 13, 5), np.uint8)


def planes(image: BandImage) -> list[Image.Image]:
    return [Image.fromarray(image.pixels[:, :, channel]) for channel in range(image.channels)]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_channels_are_resized_and_turned_as_by_pil(dtype):
    image = BandImage(PIXELS.astype(dtype))
    assert (image.size, image.height, image.width, image.channels) == ((13, 9), 9, 13, 5)
    changes = [lambda x, way=way: x.transpose(way) for way in Image.Transpose]
    changes += [lambda x: x.resize((6, 20)), lambda x: x.crop((2, 1, 7, 9))]
    changes += [lambda x: x.resize((5, 4), Image.Resampling.BILINEAR, (1.5, 2, 11.25, 8))]
    for change in changes:
        for ours, theirs in zip(planes(change(image)), map(change, planes(image)), strict=True):
            assert np.array_equal(ours, theirs)


def test_brightness_and_contrast():
    cut = BandImage(np.array([[[0, 10, 100, 255]]], np.uint8)).scale_and_shift(1.5, -20)
    assert cut.pixels.tolist() == [[[0, 0, 130, 255]]]
    kept = BandImage(np.array([[[0, 10.5, 100]]], np.float32)).scale_and_shift(1.5, -2)
    assert kept.pixels.tolist() == [[[0, 13.75, 148]]]


def test_pictures_show_three_channels_or_one():
    first, grey = PIXELS[:, :, :3], np.repeat(PIXELS[:, :, :1], 3, 2)
    assert np.array_equal(picture_of(BandImage(PIXELS)), first)
    for channels in (1, 2):
        assert np.array_equal(picture_of(BandImage(PIXELS[:, :, :channels] + np.float32(0.4))), grey)
    assert np.array_equal(picture_of(BandImage(PIXELS), check_bands((5, 1, 2), 5)), PIXELS[:, :, [4, 0, 1]])
    assert np.array_equal(picture_of(BandImage(PIXELS), check_bands((1,), 5)), grey)
    rgb = Image.fromarray(np.ascontiguousarray(first))
    assert picture_of(rgb, check_bands(None, 3)) is rgb
    assert np.array_equal(picture_of(rgb, (2, 1, 0)), first[:, :, ::-1])


@pytest.mark.parametrize("bands", [(0,), (1, 2), (1, 2, 6), ()])
def test_bands_that_are_not_there_are_errors(bands):
    with pytest.raises(ValueError, match="one or three numbers of 1 to 5"):
        check_bands(bands, 5)
