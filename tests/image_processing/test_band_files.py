"""Files that Pillow does not read, or not with all their channels; expected are the arrays that were written."""

import io
import sys

import numpy as np
import pytest
from deep_images import tiff
from PIL import Image

from m2f.image_processing.band_files import band_file_size, read_bands
from m2f.image_processing.channel_counts import ChannelCountError

PIXELS = np.random.default_rng(0).integers(0, 60000, (6, 7, 5), np.uint16)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def plain_tiff() -> bytes:
    return tiff(PIXELS.astype("<u2").tobytes(), PIXELS.shape[:2], (16,) * 5)


@pytest.mark.parametrize(
    "array",
    [PIXELS, PIXELS.transpose(2, 0, 1), np.asfortranarray(PIXELS), PIXELS.astype(">u2"), PIXELS.astype(np.float32)],
)
def test_arrays_have_their_channels_first_or_last(array, tmp_path):
    assert (read_bands(npy(array), "x", 5) == PIXELS).all()
    np.save(tmp_path / "a.npy", array)
    assert (read_bands(tmp_path / "a.npy", "x", 5) == PIXELS).all()
    assert band_file_size(tmp_path / "a.npy", 5) == (6, 7)


def test_planes_are_one_channel_and_three_will_do_with_it():
    for channels in (1, 3):
        assert read_bands(npy(PIXELS[:, :, 0]), "x", channels).shape == (6, 7, 1)
    for array, channels, found in ((PIXELS, 3, 5), (PIXELS, 4, 5), (PIXELS[:, :, :4], 3, 4), (PIXELS[:, :, 0], 2, 1)):
        with pytest.raises(ChannelCountError, match=f"^a.npy, .* has {found} channels?, and {channels} are expected"):
            read_bands(npy(array), "a.npy", channels)


def version_3(content: bytes) -> bytes:
    return content[:6] + b"\3" + content[7:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(PIXELS)[:-1], "holds 419 bytes"),
        (npy(PIXELS)[:40], "cannot decode x as an image"),
        (npy(PIXELS).replace(b"(6, 7, 5)", b"(6, 7,55)"), "holds 420 bytes, and its shape"),
        (npy(PIXELS).replace(b"(6, 7, 5)", b"(10**9,5)"), "cannot decode x as an image"),
        (npy(np.array([[{}]])), "dtype object; integers"),
        (npy(np.zeros((2, 2), complex)), "dtype complex128; integers"),
        (version_3(npy(PIXELS)), "version 3.0 of the format"),
        (npy(np.zeros((2, 3, 4, 5))), r"\(2, 3, 4, 5\), is no image"),
        (npy(np.zeros((0, 4, 5))), "has no pixels"),
    ],
)
def test_damaged_arrays_and_objects_are_errors(content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_bands(content, "x", 5)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    for channels in (3, 5):
        with pytest.raises(ValueError, match="pip install tifffile"):
            read_bands(plain_tiff(), "x", channels)


def test_what_pillow_reads_is_left_to_it(tmp_path):
    rgba = Image.fromarray(PIXELS[:, :, :4].astype(np.uint8), "RGBA")
    for image, ending, channels in (
        (rgba, "png", 4),
        (rgba, "tif", 4),
        (rgba, "tif", 3),
        (rgba.getchannel(0), "tif", 1),
    ):
        image.save(tmp_path / f"a.{ending}")
        assert read_bands(tmp_path / f"a.{ending}", "x", channels) is None
    # Damaged ones too, whose error Pillow's reader tells.
    for content in (b"II*\0", b"II*\0\xff\0\0\0", (tmp_path / "a.tif").read_bytes()[:20]):
        assert read_bands(content, "x", 3) is None


def written(array: np.ndarray, **options) -> bytes:
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


PLANES, CHUNKS = PIXELS.transpose(2, 0, 1), {"photometric": "minisblack", "planarconfig": "contig"}
TIFFS = {
    "chunks": lambda: written(PIXELS, **CHUNKS),
    "planes": lambda: written(PLANES, photometric="minisblack", planarconfig="separate"),
    "pages": lambda: written(PLANES, photometric="minisblack"),
    "compressed": lambda: written(PIXELS, **CHUNKS, compression="zlib", predictor=True),
    "tiles": lambda: written(PIXELS, **CHUNKS, tile=(16, 16)),
    "big": lambda: written(PIXELS, **CHUNKS, bigtiff=True),
    "colours and more": lambda: written(PIXELS, photometric="rgb", planarconfig="contig"),
    "by hand": lambda: plain_tiff(),
    # A row that is stored first is the last one (orientation 4).
    "turned": lambda: written(PIXELS[::-1], **CHUNKS, extratags=[(274, 3, 1, 4, False)]),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_bands_of_tiff_files(kind, tmp_path):
    pytest.importorskip("tifffile")
    content = TIFFS[kind]()
    assert (read_bands(content, "x", 5) == PIXELS).all()
    (tmp_path / "a.tif").write_bytes(content)
    assert (read_bands(tmp_path / "a.tif", "x", 5) == PIXELS).all()
    with pytest.raises(ChannelCountError, match="^x has 5 channels, and 4 are expected"):
        read_bands(content, "x", 4)


def test_four_bands_are_not_taken_for_colours_with_alpha():
    pytest.importorskip("tifffile")
    four = PIXELS[:, :, :4].astype(np.uint8)
    for extra in ("unspecified", "assocalpha"):  # Pillow leaves the former out, and divides by the latter
        assert (read_bands(written(four, photometric="rgb", extrasamples=[extra]), "x", 4) == four).all()


def test_large_and_damaged_files_are_errors(monkeypatch):
    pytest.importorskip("tifffile")
    with pytest.raises(ValueError, match="cannot decode x as an image"):
        read_bands(written(PIXELS, **CHUNKS, compression="zlib")[:-20], "x", 5)
    with pytest.raises(ValueError, match="the axes"):
        read_bands(written(np.zeros((2, 3, 6, 7), np.uint8), photometric="minisblack"), "x", 5)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ValueError, match="42 pixels.* --max-pixels 42"):
        read_bands(TIFFS["chunks"](), "x", 5)
