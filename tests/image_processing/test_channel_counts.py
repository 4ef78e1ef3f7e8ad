"""The image processor with other than three channels; expected values are computed plane by plane here."""

import io

import numpy as np
import pytest
import torch
from deep_images import png
from PIL import Image

from m2f.image_processing.band_image import BandImage
from m2f.image_processing.image_processing_m2f import M2FImageProcessor

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 13, 5), np.uint8)
SAME_SIZE = {"do_resize": False, "size_divisor": 1, "return_tensors": "np"}


def stored(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def values(image, channels: int, **settings) -> np.ndarray:
    """(H,W,C) of 0..255, rounded where they are whole."""
    processor = M2FImageProcessor(num_channels=channels, **settings)
    made = processor(image, do_normalize=False, do_rescale=False, **SAME_SIZE)["pixel_values"][0]
    return made.transpose(1, 2, 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_each_channel_is_prepared_as_a_grey_image_is(dtype):
    """Resized, normalised with its own numbers, and padded with 0."""
    mean, std = [0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.4, 0.3, 0.2, 0.1]
    settings = {"size": {"height": 20, "width": 31}}
    image = PIXELS.astype(dtype)
    made = M2FImageProcessor(num_channels=5, image_mean=mean, image_std=std, **settings)(image, return_tensors="pt")
    assert made["pixel_values"].shape == (1, 5, 32, 32) and int(made["pixel_mask"].sum()) == 20 * 31
    for channel in range(5):
        rgb = M2FImageProcessor(image_mean=mean[channel], image_std=std[channel], **settings)
        alone = rgb(np.ascontiguousarray(image[:, :, channel]), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(made["pixel_values"][:, channel], alone[:, 0], rtol=0, atol=1e-6)


def test_arrays_and_tensors_have_their_channels_at_either_end():
    for image in (PIXELS, PIXELS.transpose(2, 0, 1), torch.from_numpy(PIXELS), BandImage(PIXELS)):
        assert np.array_equal(values(image, 5), PIXELS)
    square = PIXELS[:5, :5]
    assert np.array_equal(values(square, 5), square)
    assert np.array_equal(values(torch.from_numpy(square), 5), square.transpose(1, 2, 0))
    processor = M2FImageProcessor(num_channels=5, do_normalize=False, do_rescale=False)
    first = processor(square, input_data_format="channels_first", **SAME_SIZE)["pixel_values"][0]
    assert np.array_equal(first, square)


def test_white_of_more_than_8_bits_is_found_as_for_others():
    deep = PIXELS.astype(np.uint16) * 16
    deep[0, 0] = 4000
    assert np.allclose(values(deep, 5), deep / 4095 * 255, atol=1e-4)
    assert np.allclose(values(deep, 5, white_level=8000), deep / 8000 * 255, atol=1e-4)
    # A reader's image has its white at 255 already.
    assert np.array_equal(values(BandImage(PIXELS.astype(np.float32)), 5, white_level=10), PIXELS)


def test_pictures_give_the_channels_that_are_asked_for():
    rgba, grey, alpha = PIXELS[:, :, :4], PIXELS[:, :, :1], PIXELS[:, :, 1:2]
    of_four, of_two = Image.fromarray(rgba.copy()), Image.fromarray(PIXELS[:, :, :2].copy())
    assert np.array_equal(values(stored(of_four), 4), rgba)
    assert np.array_equal(values(of_two, 2), PIXELS[:, :, :2])
    assert np.array_equal(values(of_two, 1), grey)  # alpha is the one too many
    assert np.array_equal(values(Image.fromarray(PIXELS[:, :, 0].copy()), 1), grey)
    as_colours = Image.fromarray(np.concatenate([grey, grey, grey, alpha], 2))
    assert np.array_equal(values(stored(as_colours), 1), grey)
    palette = stored(Image.fromarray(PIXELS[:, :, 0].copy()).convert("P"), transparency=3)
    assert np.array_equal(values(palette, 4), Image.open(io.BytesIO(palette)).convert("RGBA"))


def test_colours_of_16_bits_keep_their_alpha():
    deep = np.random.default_rng(1).integers(0, 65536, (9, 13, 4), np.uint16)
    assert np.allclose(values(png(deep), 4), deep / 257, atol=1e-4)
    assert np.allclose(values(png(deep[:, :, :2]), 2), deep[:, :, :2] / 257, atol=1e-4)
    assert np.allclose(values(png(deep[:, :, :2]), 1), deep[:, :, :1] / 257, atol=1e-4)


@pytest.mark.parametrize(
    ("image", "channels", "message"),
    [
        (PIXELS, 4, r"an array of shape \(9, 13, 5\) has 5 channels, and 4 are expected.*--channels 5"),
        (PIXELS[:, :, 0], 4, "has 1 channel, and 4 are expected"),
        (PIXELS[:, :, :3], 1, "has 3 channels, and 1 is expected"),
        (stored(Image.fromarray(PIXELS[:, :, :3].copy())), 4, "bytes has 3 channels, and 4 are expected"),
        (stored(Image.fromarray(PIXELS[:, :, :3].copy())), 1, "bytes has 3 channels, and 1 is expected"),
        (Image.fromarray(PIXELS[:, :, 0].astype(np.uint16)), 2, "has 1 channel, and 2 are expected"),
        (BandImage(PIXELS), 3, "has 5 channels, and 3 are expected"),
    ],
)
def test_other_channels_are_errors(image, channels, message):
    with pytest.raises(ValueError, match=message):
        values(image, channels)


def test_the_number_is_kept_and_has_numbers_to_normalise_with(tmp_path):
    M2FImageProcessor(num_channels=4).save_pretrained(tmp_path)
    processor = M2FImageProcessor.from_pretrained(tmp_path)
    assert (processor.num_channels, processor.image_mean, processor.image_std) == (4, 0.5, 0.5)
    made = processor(PIXELS[:, :, :4], **SAME_SIZE)["pixel_values"][0]
    assert np.allclose(made.transpose(1, 2, 0), PIXELS[:, :, :4] / 127.5 - 1, atol=1e-6)
    with pytest.raises(ValueError, match=r"image_mean has 3 values, but the images have 4 channels \(num_channels\)"):
        M2FImageProcessor(num_channels=4, image_mean=[0.1, 0.2, 0.3])
    for wrong in (0, 2.5, "4", 10**6):
        with pytest.raises(ValueError, match="num_channels must be a whole number of 1 to 1024"):
            M2FImageProcessor(num_channels=wrong)
