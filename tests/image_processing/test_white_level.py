"""Images of more than 8 bits: which value becomes 255. Expected values are those of the same image in 8 bits, or the
given value times 255 over the white level."""

import base64
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from deep_images import tiff
from PIL import Image

from m2f.image_processing.image_loading import load_images, to_rgb
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.white_level import check_white_level

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
GREY[0, 0] = 255
RGB = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
WIDE, DIM = GREY.astype(np.uint16), GREY.astype(np.uint16) // 5  # up to 255, and up to 51
LOGGER = "m2f.image_processing.image_loading.logger.warning_once"


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """Warnings, each time that one would be given for the first time."""
    found: list[str] = []
    monkeypatch.setattr(LOGGER, found.append)
    return found


def grey(image, white_level=None, **options) -> np.ndarray:
    """(H,W) values of the first channel, as they are before resizing."""
    return np.asarray(to_rgb(load_images(image)[0], white_level, **options))[:, :, 0]


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


EIGHT_BIT_VALUES = {
    "uint16": WIDE,
    "int16": GREY.astype(np.int16),
    "int32": GREY.astype(np.int32),
    "uint64": GREY.astype(np.uint64),
    "uint16_tensor": torch.from_numpy(GREY.astype(np.int32)).to(torch.uint16),
    "pil_I;16": Image.fromarray(WIDE),
    "pil_I": Image.fromarray(GREY.astype(np.int32)),
    "pil_F": Image.fromarray(GREY.astype(np.float32)),
    "tiff_uint16": encoded(Image.fromarray(WIDE), "TIFF"),
    "tiff_lzw": encoded(Image.fromarray(WIDE), "TIFF", compression="tiff_lzw"),
    "tiff_int32": encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"),
    "tiff_float": encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
    "png_uint16": encoded(Image.fromarray(WIDE), "PNG"),
}


@pytest.mark.parametrize("form", list(EIGHT_BIT_VALUES))
def test_8_bit_values_in_a_wider_type_are_not_black(form, said):
    np.testing.assert_array_equal(grey(EIGHT_BIT_VALUES[form]), GREY)
    assert not said


@pytest.mark.parametrize("factor", [256, 257])
@pytest.mark.parametrize("image", [WIDE, DIM], ids=["bright", "dim"])
def test_8_bits_spread_over_16_are_the_same_image_and_no_guess(image, factor, said):
    np.testing.assert_allclose(grey(image * factor), image, atol=1)
    assert not said


@pytest.mark.parametrize(("bits", "factor"), [(12, 16), (14, 64)])
def test_images_of_12_and_14_bits_are_not_black_and_one_warning_says_so(bits, factor, said):
    white = 2**bits - 1
    image = (WIDE * factor) | 3  # no multiples of 256 alone
    for form in (image, image.astype(np.int16), Image.fromarray(image), encoded(Image.fromarray(image), "TIFF")):
        np.testing.assert_allclose(grey(form), np.minimum(image * (255 / white), 255), rtol=1e-5)
    assert len(set(said)) == 1
    assert f"of {bits} bits" in said[0] and f"white_level={white}" in said[0]


def test_full_16_bits_are_divided_by_257_without_a_warning(said):
    image = RNG.integers(0, 65536, (9, 9), dtype=np.uint16)
    image[0, 0] = 20000
    np.testing.assert_array_equal(grey(image), image.astype(np.float32) / np.float32(257))
    assert not said


@pytest.mark.parametrize(
    ("white_level", "white"), [(1000, 1000), ("1000", 1000), (250.5, 250.5), ("type", 65535), ("data", 3000)]
)
def test_a_white_level_that_is_given_decides_without_a_warning(white_level, white, said):
    image = np.array([[0, 200, 1000, 3000]], np.uint16)
    expected = np.minimum(image[0] * (255 / white), 255)
    np.testing.assert_allclose(grey(image, white_level)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(grey(Image.fromarray(image), white_level)[0], expected, rtol=1e-5)
    assert not said


@pytest.mark.parametrize("white_level", [4095, "type", "data", "auto"])
def test_images_of_8_bits_stay_whatever_white_is(white_level):
    """So an image that was read once, or is cut from another, is not changed again."""
    for image in (GREY // 2, Image.fromarray(GREY // 2), GREY > 100):
        expected = np.asarray(image).astype(np.uint8) * (255 if np.asarray(image).dtype == bool else 1)
        np.testing.assert_array_equal(grey(image, white_level), expected)


def test_wider_integers_and_floats_follow_a_white_level(said):
    image = np.array([[0, 50_000, 100_000]])
    for kind in (np.int32, np.uint32, np.int64, np.float32, np.float64):
        for white_level in (100_000, "data"):
            np.testing.assert_allclose(grey(image.astype(kind), white_level)[0], [0, 127.5, 255], rtol=1e-5)
    np.testing.assert_allclose(grey(np.array([[0, 0.5, 1]]), 1)[0], [0, 127.5, 255])
    np.testing.assert_allclose(grey(Image.fromarray(image.astype(np.int32)), "data")[0], [0, 127.5, 255])
    np.testing.assert_array_equal(grey(np.zeros((2, 2), np.uint16), "data"), 0)
    assert not said


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((4, 4), 300), "from 300 to 300; expected 0 to 255; say which value is white with white_level"),
        (Image.fromarray(np.full((4, 4), 70000, np.int32)), "from 70000 to 70000; .* white_level"),
        (np.full((4, 4), -1000, np.int16), "from -1000 to -1000; .*; add 1000 so that the lowest value is 0"),
        (Image.fromarray(np.full((4, 4), -7, np.int32)), "from -7 to -7; .*; add 7"),
    ],
)
def test_what_no_rule_fits_is_an_error_with_a_remedy(image, message):
    with pytest.raises(ValueError, match=message):
        grey(image)


def test_a_float_file_in_0_to_1_is_not_black(said):
    """Float arrays keep transformers' convention, 0..255; with do_rescale=False the caller has scaled them."""
    unit = Image.fromarray((GREY / 255).astype(np.float32))
    for image in (unit, encoded(unit, "TIFF")):
        np.testing.assert_allclose(grey(image), GREY, atol=1e-4)
    assert len(set(said)) == 1 and "0..1" in said[0]
    said.clear()
    np.testing.assert_array_equal(grey(unit, keep_floats=True), np.asarray(unit))
    assert not said
    processor = M2FImageProcessor(do_resize=False, do_rescale=False, do_normalize=False, do_pad=False)
    assert processor(unit)["pixel_values"][0].max() == 1


def test_the_bits_that_a_tiff_states_are_no_guess(said):
    """12 bits a value, two values in three bytes, the first one's upper bits first (TIFF 6.0, section 8)."""
    values = np.array([[0, 100, 200, 40]])
    data = b"".join(struct.pack(">I", a << 12 | b)[1:] for a, b in values.reshape(-1, 2).tolist())
    np.testing.assert_allclose(grey(tiff(data, (1, 4), (12,)))[0], values[0] * (255 / 4095), rtol=1e-5)
    assert not said


@pytest.mark.parametrize("plain", [True, False])
def test_pgm_has_the_white_that_it_states_and_the_values_that_are_in_it(plain, said):
    """Pillow spreads them over 16 bits, so a white level in the file's own numbers would make all of it white."""
    values = np.array([[0, 100, 1000]])
    data = b"0 100 1000" if plain else values.astype(">u2").tobytes()
    content = (b"P2" if plain else b"P5") + b" 3 1 4095\n" + data
    np.testing.assert_allclose(grey(content)[0], values[0] * (255 / 4095), rtol=1e-5)
    np.testing.assert_allclose(grey(content, 2000)[0], values[0] * (255 / 2000), rtol=1e-5)
    assert not said


def test_jpeg_2000_has_the_white_that_it_states(said):
    """An image of 16 bits whose header is made to say 12. The format stores a value less half of the range (ISO/IEC
    15444-1, G.1), so 100 above 2048 less than that half is 100; Pillow shifts it by 4 bits."""
    content = encoded(Image.fromarray(np.full((8, 8), 32768 - 2048 + 100, np.uint16)), "JPEG2000", no_jp2=True)
    precision = content.find(b"\xff\x4f\xff\x51") + 42
    assert content[precision] == 15
    content = content[:precision] + bytes([11]) + content[precision + 1 :]
    np.testing.assert_allclose(grey(content), 100 * 255 / 4095, rtol=1e-5)
    np.testing.assert_allclose(grey(content, 1000), 25.5, rtol=1e-5)
    assert not said


def test_each_image_of_a_batch_has_its_own_white():
    processor = M2FImageProcessor(do_resize=False, do_rescale=False, do_normalize=False, do_pad=False)
    values = processor([GREY, WIDE, WIDE * 257, (WIDE * 16) | 1], return_tensors="np")["pixel_values"]
    for image in values[:3]:
        np.testing.assert_array_equal(image[0], GREY)
    np.testing.assert_allclose(values[3, 0], GREY, atol=1)


def test_the_processor_keeps_a_white_level_and_a_call_overrides_it(tmp_path):
    image = np.array([[0, 500, 1000]], np.uint16)
    options = {"do_resize": False, "do_rescale": False, "do_normalize": False, "do_pad": False}
    M2FImageProcessor(white_level=1000, **options).save_pretrained(tmp_path)
    processor = M2FImageProcessor.from_pretrained(tmp_path)
    assert processor.white_level == 1000
    for call, white in (({}, 1000), ({"white_level": "type"}, 65535), ({"white_level": "auto"}, 4095)):
        np.testing.assert_allclose(processor(image, **call)["pixel_values"][0][0, 0], image[0] * (255 / white), 1e-5)


@pytest.mark.parametrize("wrong", ["white", "", 0, -3, True, float("nan"), [4095]])
def test_a_wrong_white_level_is_an_error_that_names_the_choices(wrong):
    for use in (lambda: M2FImageProcessor(white_level=wrong), lambda: M2FImageProcessor()(RGB, white_level=wrong)):
        with pytest.raises(ValueError, match="'auto', 'type', 'data' or a number"):
            use()


def test_white_levels_are_stored_as_they_are_meant():
    given = {"auto": None, None: None, "4095": 4095, 4095.0: 4095, np.float32(0.5): 0.5, "data": "data"}
    assert [check_white_level(value) for value in given] == list(given.values())


def test_no_warning_of_floats_in_0_to_1_where_white_is_given(monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr("m2f.image_processing.batching.logger.warning_once", warnings.append)
    scaled = M2FImageProcessor(do_resize=False, white_level=1)((RGB / 255).astype(np.float32))["pixel_values"][0]
    torch.testing.assert_close(scaled, M2FImageProcessor(do_resize=False)(RGB)["pixel_values"][0], atol=1e-4, rtol=0)
    assert not warnings


def test_16_bit_images_at_an_address_and_in_base64_are_not_cut_off(monkeypatch):
    """transformers' reader converts them to RGB, which makes every value above 255 white."""
    content = encoded(Image.fromarray(WIDE * 257), "PNG")
    monkeypatch.setattr("m2f.image_processing.image_loading.download", lambda url: content)
    text = base64.b64encode(content).decode()
    for source in ("https://example.org/x.png", text, f"data:image/png;base64,{text}"):
        np.testing.assert_array_equal(grey(source), GREY)
    with pytest.raises(ValueError, match=r"no such file: missing\.png; nor"):
        load_images("missing.png")
    with pytest.raises(FileNotFoundError, match="missing"):
        load_images(Path("missing.png"))
