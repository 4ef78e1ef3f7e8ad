"""Colour images with 16 bits a channel. Expected values are those that the file was written with."""

import io

import numpy as np
import pytest
from deep_images import png, tiff
from PIL import Image

from m2f.image_processing.deep_channels import has_deep_channels, upright_pixels
from m2f.image_processing.image_loading import load_images, to_rgb

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 4096, (5, 7, 3), dtype=np.uint16)
COLOURS[0, 0] = (4095, 4094, 1)
ALPHA = np.concatenate([COLOURS, COLOURS[:, :, :1]], axis=2)


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """Warnings, each time that one would be given for the first time."""
    found: list[str] = []
    monkeypatch.setattr("m2f.image_processing.image_loading.logger.warning_once", found.append)
    return found


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png(COLOURS), COLOURS),
        (png(ALPHA), COLOURS),
        (png(COLOURS[:, :, :2]), COLOURS[:, :, [0, 0, 0]]),
        (tiff(COLOURS.tobytes(), (5, 7), (16, 16, 16)), COLOURS),
    ],
    ids=["png_rgb", "png_rgba", "png_grey_alpha", "tiff_rgb"],
)
def test_colour_files_of_16_bits_keep_what_is_in_their_lower_8(content, expected, said):
    """Pillow gives the upper 8: at most 15 of 255 for 12 bits."""
    for image in (content, Image.open(io.BytesIO(content))):
        np.testing.assert_allclose(to_rgb(load_images(image)[0]), expected * (255 / 4095), rtol=1e-5)
    assert len(set(said)) == 1
    assert to_rgb(load_images(content)[0], "type").max() < 16


@pytest.mark.parametrize("expected", [ALPHA, COLOURS[:, :, :2]], ids=["colours", "grey"])
def test_alpha_of_16_bits_is_kept_where_it_is_asked_for(expected):
    for keep, channels in ((True, expected), (False, expected[:, :, :-1])):
        np.testing.assert_array_equal(upright_pixels(Image.open(io.BytesIO(png(expected))), keep), channels)


def test_a_lazily_opened_image_is_left_as_it_was(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(COLOURS))
    with Image.open(path) as image:
        image.fp.seek(50)
        load_images(image)
        assert image.fp.tell() == 50
        np.testing.assert_array_equal(np.asarray(image), COLOURS >> 8)


def test_a_turned_colour_file_of_16_bits_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to view
    (image,) = load_images(png(COLOURS, exif.tobytes().removeprefix(b"Exif\0\0")))
    np.testing.assert_array_equal(image, np.rot90(COLOURS, -1))


def test_which_images_are_deep():
    """Not those that are decoded already, nor those of which Pillow keeps all bits, or that have 8."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    assert not has_deep_channels(Image.open(file)) and not has_deep_channels(Image.new("RGB", (4, 4)))
    assert not has_deep_channels(Image.open(io.BytesIO(tiff(COLOURS[:, :, 0].tobytes(), (5, 7), (16,)))))
    image = Image.open(io.BytesIO(png(COLOURS)))
    assert has_deep_channels(image)
    image.load()
    assert not has_deep_channels(image)
