"""Images of all kinds become upright RGB, and labels are turned along with them."""

import io

import numpy as np
import pytest
from deep_images import png
from PIL import Image, ImageOps

from m2f.data.image_reading import ImageFile
from m2f.data.segment_map import SegmentMap

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def encoded(image: Image.Image, suffix: str = "png", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file.getvalue()


def labels_of(rgb: np.ndarray) -> SegmentMap:
    """Labels that hold the red channel."""
    return SegmentMap(rgb[None, :, :, 0].astype(np.int32), np.zeros(256, np.int64))


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(PIXELS), exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_brought_upright(orientation):
    """Pillow's exif_transpose gives the expected pixels."""
    content = oriented(orientation)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    file = ImageFile(content, "x")
    assert file.size == expected.shape[:2] and file.stored_size == (4, 6)
    sample = file.sample(labels_of(expected), "name")
    np.testing.assert_array_equal(np.asarray(sample.image), expected)
    # Labels of the upright size were drawn on the upright image, and stay.
    np.testing.assert_array_equal(sample.segments.ids[0], expected[..., 0])
    assert sample.name == "name"


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_of_the_stored_size_are_turned_with_the_pixels(orientation):
    """Labels and image hold the same numbers before, and must afterwards."""
    sample = ImageFile(oriented(orientation), "x").sample(labels_of(PIXELS), "name")
    assert sample.segments.size == (6, 4)
    np.testing.assert_array_equal(sample.segments.ids[0], np.asarray(sample.image)[..., 0])
    assert sample.segments.ids.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("orientation", [0, 9, 6000])
def test_unknown_orientation_is_upright(orientation):
    sample = ImageFile(oriented(orientation), "x").sample(labels_of(PIXELS), "name")
    np.testing.assert_array_equal(np.asarray(sample.image), PIXELS)


def test_tiff_is_turned_once():
    """Pillow itself turns TIFF files when it decodes them."""
    content = encoded(Image.fromarray(PIXELS), "tiff", tiffinfo={0x0112: 6})
    file = ImageFile(content, "x")
    assert file.size == (6, 4)
    sample = file.sample(labels_of(np.rot90(PIXELS, -1)), "name")
    np.testing.assert_array_equal(np.asarray(sample.image), np.rot90(PIXELS, -1))


GREY = PIXELS[..., 0]
ALPHA = np.dstack([PIXELS, GREY])


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (Image.fromarray(GREY), "png", np.dstack([GREY] * 3)),
        (Image.fromarray(ALPHA), "png", PIXELS),
        (Image.fromarray(GREY > 99), "png", np.dstack([(GREY > 99) * 255] * 3)),
        # 16 bits are divided by 257, so that 65535 is 255, and rounded: 1000 / 257 = 3.9.
        (Image.fromarray(np.array([[0, 1000, 65535]], np.uint16)), "png", [[[0] * 3, [4] * 3, [255] * 3]]),
        (Image.fromarray(np.array([[0, 1000, 65535]], np.uint16)), "tiff", [[[0] * 3, [4] * 3, [255] * 3]]),
        (Image.fromarray(np.array([[0, 99.6, 255]], np.float32)), "tiff", [[[0] * 3, [100] * 3, [255] * 3]]),
    ],
)
def test_modes_become_rgb(image, suffix, expected):
    sample = ImageFile(encoded(image, suffix), "x").sample(labels_of(np.array(expected)), "name")
    assert sample.image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(sample.image), expected)


def test_palette_and_cmyk_become_rgb():
    """Both hold few colours here, which Pillow keeps; JPEG changes them by a few steps."""
    flat = np.full((8, 8, 3), (200, 60, 20), np.uint8)
    palette = Image.fromarray(flat).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    sample = ImageFile(encoded(palette), "x").sample(labels_of(flat), "name")
    np.testing.assert_array_equal(np.asarray(sample.image), flat)
    cmyk = ImageFile(encoded(Image.fromarray(flat).convert("CMYK"), "jpeg"), "x").sample(labels_of(flat), "name")
    assert cmyk.image.mode == "RGB"
    assert np.abs(np.asarray(cmyk.image).astype(int) - flat).max() <= 4


def test_floats_outside_0_to_255_are_refused():
    content = encoded(Image.fromarray(np.array([[0, 300]], np.float32)), "tiff")
    with pytest.raises(ValueError, match=r"cannot decode x\.tif .*from 0\.0 to 300\.0; 0 to 255"):
        ImageFile(content, "x.tif").sample(labels_of(np.zeros((1, 2, 3))), "name")


def test_other_sizes_are_refused_before_decoding():
    file = ImageFile(oriented(6), "x.png")
    file.check_size((6, 4), "y.json")
    file.check_size((4, 6), "y.json")
    with pytest.raises(ValueError, match=r"x\.png is 6 x 4 \(height x width\), but y\.json says 3 x 4"):
        file.check_size((3, 4), "y.json")
    with pytest.raises(ValueError, match=r"x\.png is 6 x 4"):
        file.sample(labels_of(np.zeros((3, 4, 3))), "name")


def test_a_path_is_read(tmp_path):
    (tmp_path / "x.png").write_bytes(oriented(1))
    sample = ImageFile(tmp_path / "x.png", "x").sample(labels_of(PIXELS), "name")
    np.testing.assert_array_equal(np.asarray(sample.image), PIXELS)


def test_missing_unreadable_and_foreign_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*absent\.png"):
        ImageFile(tmp_path / "absent.png", str(tmp_path / "absent.png"))
    with pytest.raises(FileNotFoundError, match="no such file: long"):
        ImageFile(tmp_path / ("x" * 5000), "long")
    with pytest.raises(ValueError, match=r"cannot decode text\.png as an image"):
        ImageFile(b"no image", "text.png")
    # Pillow would run Ghostscript on it.
    with pytest.raises(ValueError, match=r"cannot decode x\.eps"):
        ImageFile(encoded(Image.fromarray(PIXELS), "eps"), "x.eps")
    whole = encoded(Image.fromarray(PIXELS))
    with pytest.raises(ValueError, match=r"cannot decode cut\.png"):
        ImageFile(whole[:60], "cut.png").sample(labels_of(PIXELS), "name")


def test_decompression_bombs_are_refused_by_name(monkeypatch):
    content = encoded(Image.new("L", (50, 50)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # an error above twice as many
    with pytest.raises(ValueError, match=r"cannot decode bomb\.png .*decompression bomb"):
        ImageFile(content, "bomb.png")


def test_colour_files_of_16_bits_keep_what_is_in_their_lower_8():
    """Pillow decodes the upper 8 alone, and a PNG already where its orientation is looked for."""
    colours = np.random.default_rng(1).integers(0, 4096, (5, 7, 3), dtype=np.uint16)
    colours[0, 0] = 4095
    exif = Image.Exif()
    exif[0x0112] = 6
    for content, expected in (
        (png(colours), colours),
        (png(colours, exif.tobytes().removeprefix(b"Exif\0\0")), np.rot90(colours, -1)),
    ):
        file = ImageFile(content, "x")
        assert file.size == expected.shape[:2] and file.stored_size == (5, 7)
        image, guess = file.upright()
        np.testing.assert_array_equal(np.asarray(image), np.rint(expected * (255 / 4095)))
        assert "12 bits" in guess


def test_alpha_is_a_channel_where_four_are_expected():
    """8 bits as they are, 16 of them in 0..255; else alpha is dropped."""
    deep = np.random.default_rng(1).integers(0, 65536, (4, 6, 4), np.uint16)
    deep[0, 0] = 65535
    for content, expected in ((encoded(Image.fromarray(ALPHA)), ALPHA), (png(deep), deep / 257)):
        image, _ = ImageFile(content, "x", num_channels=4).upright()
        np.testing.assert_allclose(np.asarray(image), expected, atol=1e-4)
    with pytest.raises(ValueError, match="x has 3 channels, and 4 are expected"):
        ImageFile(encoded(Image.fromarray(PIXELS)), "x", num_channels=4).upright()
    grey, _ = ImageFile(png(deep[..., :2]), "x").upright()
    np.testing.assert_array_equal(np.asarray(grey), np.rint(deep[..., [0, 0, 0]] / 257))


def test_floats_in_0_to_1_are_not_black_and_above_255_need_a_white_level():
    content = encoded(Image.fromarray(np.array([[0, 0.2, 1]], np.float32)), "tiff")
    image, guess = ImageFile(content, "x").upright()
    np.testing.assert_array_equal(np.asarray(image)[0, :, 0], [0, 51, 255])
    assert "0..1" in guess
    content = encoded(Image.fromarray(np.array([[0, 120, 600]], np.float32)), "tiff")
    with pytest.raises(ValueError, match="from 0.0 to 600.0; .* white_level"):
        ImageFile(content, "x").upright()
    for white_level in (600, "data"):
        image, guess = ImageFile(content, "x", white_level).upright()
        np.testing.assert_array_equal(np.asarray(image)[0, :, 0], [0, 51, 255])
        assert not guess


def paged(kind: str, **options) -> bytes:
    first, *others = (Image.new("RGB", (6, 4), (value, 0, 0)) for value in (10, 100, 200))
    return encoded(first, kind, save_all=True, append_images=others, **options)


@pytest.mark.parametrize(("kind", "pages"), [("TIFF", 3), ("GIF", 3), ("WEBP", 3), ("PNG", 3), ("MPO", 1)])
def test_pages_are_counted_and_the_first_is_read_with_one_warning(kind, pages, monkeypatch):
    """The other pictures of an MPO file, as cameras write it, are previews."""
    said = []
    monkeypatch.setattr("m2f.data.image_reading.logger.warning_once", said.append)
    options = {"lossless": True} if kind == "WEBP" else {}
    content = paged(kind, **options)
    assert Image.open(io.BytesIO(content)).n_frames == 3
    for name in ("a", "b"):
        sample = ImageFile(content, name).sample(SegmentMap(np.zeros((1, 4, 6), np.int32), np.array([0])), name)
        assert (sample.pages, sample.image.mode, sample.image.size) == (pages, "RGB", (6, 4))
        assert abs(np.asarray(sample.image)[..., 0].astype(int) - 10).max() <= 3  # MPO is lossy
    assert len(set(said)) == (pages > 1) and (pages == 1 or "several pages or frames" in said[0])


@pytest.mark.parametrize("share", [0.5, 0.6, 0.7, 0.8, 0.95])
def test_what_follows_the_first_page_may_be_damaged(share):
    """It lies in the first third of the file."""
    content = paged("TIFF")
    sample = ImageFile(content[: int(share * len(content))], "x").sample(labels_of(np.full((4, 6, 3), 10)), "x")
    assert (np.asarray(sample.image) == (10, 0, 0)).all()


def test_one_warning_of_many_images_whose_white_is_guessed(monkeypatch):
    """transformers' `warning_once` gives a text once; images with other values have the same text."""
    said = []
    monkeypatch.setattr("m2f.data.image_reading.logger.warning_once", said.append)
    for value in (1000, 2001, 4003):
        ImageFile(encoded(Image.fromarray(np.array([[value]], np.uint16))), f"{value}.png").upright()
    assert len(said) == 3 and len(set(said)) == 1
