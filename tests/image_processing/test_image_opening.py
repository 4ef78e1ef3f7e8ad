"""How images are opened, and which way up they stand. Pillow's exif_transpose gives the expected pixels."""

import io
import re
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from m2f.image_processing.image_opening import (
    IMAGE_FORMATS,
    decoded,
    file_content,
    open_image,
    orientation,
    reopened,
    upright,
    upright_size,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
FORMATS_WITH_EXIF = ("PNG", "TIFF", "WEBP", "JPEG")


def encoded(kind: str, number: int | None = None, **options) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    if number is not None:
        exif[0x0112] = number
        options = {"tiffinfo": {0x0112: number}} if kind == "TIFF" else {"exif": exif}
    Image.fromarray(PIXELS).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", FORMATS_WITH_EXIF)
@pytest.mark.parametrize("number", range(1, 9))
def test_image_is_brought_upright_and_its_size_known_before(kind, number):
    content = encoded(kind, number)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    image = open_image(content, "x")
    assert upright_size(image) == expected.size[::-1]
    np.testing.assert_array_equal(np.asarray(upright(image)), np.asarray(expected))


@pytest.mark.parametrize("kind", FORMATS_WITH_EXIF)
def test_an_upright_image_is_not_turned_again(kind):
    once = upright(open_image(encoded(kind, 6), "x"))
    assert orientation(once) == 1 and once.size == (4, 6)
    assert upright(once) is once


@pytest.mark.parametrize("number", [None, 0, 9, 6000])
def test_unknown_orientations_are_upright(number):
    image = open_image(encoded("PNG", number), "x")
    assert orientation(image) == 1 and upright(image) is image


def test_formats_beside_the_known_ones_are_for_those_who_ask(tmp_path):
    assert open_image(encoded("PNG"), "x").format in IMAGE_FORMATS
    (tmp_path / "x.pcx").write_bytes(encoded("PCX"))
    for source in (tmp_path / "x.pcx", encoded("PCX")):
        with pytest.raises(ValueError, match=r"cannot decode y\.pcx as an image: it is empty, cut off"):
            open_image(source, "y.pcx")
        assert open_image(source, "y.pcx", formats=None).format == "PCX"


def test_bombs_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 11)  # an error above twice as many
    with pytest.raises(ValueError, match=r"cannot decode bomb\.png .*decompression bomb") as error:
        open_image(encoded("PNG"), "bomb.png")
    # The limit that is advised lets this very image pass, and one below does not.
    advised = int(re.search(r"PIL\.Image\.MAX_IMAGE_PIXELS = (\d+)$", str(error.value))[1])
    pixels = int(re.search(r"predict --max-pixels (\d+),", str(error.value))[1])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", advised - 1)
    with pytest.raises(ValueError, match=f"allow its {pixels} pixels"):
        open_image(encoded("PNG"), "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", advised)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = open_image(encoded("PNG"), "bomb.png")
    assert image.width * image.height == pixels


def test_errors_without_a_text_have_their_name():
    def fail():
        raise MemoryError

    with pytest.raises(ValueError, match="cannot decode x as an image: MemoryError"):
        decoded(fail, "x")


def test_a_reopened_image_leaves_the_first_as_it_was():
    image = open_image(encoded("PNG"), "x")
    image.fp.seek(50)
    np.testing.assert_array_equal(np.asarray(reopened(image)), PIXELS)
    assert image.fp.tell() == 50 and image.tile
    np.testing.assert_array_equal(np.asarray(image), PIXELS)


def test_the_content_of_files(tmp_path):
    (tmp_path / "x").write_bytes(b"ab")
    assert file_content(tmp_path / "x", "x") == file_content(b"ab", "y") == b"ab"
    for missing in ("absent", "x" * 5000):
        with pytest.raises(FileNotFoundError, match="no such file: the image"):
            file_content(tmp_path / missing, "the image")


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError("not yours")

    (tmp_path / "x.png").touch()
    monkeypatch.setattr(type(tmp_path), "read_bytes", refuse)
    with pytest.raises(ValueError, match=r"cannot read x\.png: not yours"):
        file_content(tmp_path / "x.png", "x.png")
