import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from m2f.image_processing.image_loading import load_images, load_label_maps, resize_label_map, spatial_size, to_rgb
from m2f.image_processing.image_processing_m2f import M2FImageProcessor

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
RAW = M2FImageProcessor(do_resize=False, do_rescale=False, do_normalize=False, do_pad=False)


def pixels(image, **kwargs) -> np.ndarray:
    """(H,W,3) values as they reach the model without resize, rescale, normalisation and padding."""
    return RAW(image, return_tensors="np", **kwargs)["pixel_values"][0].transpose(1, 2, 0)


def grey_as_rgb(array: np.ndarray) -> np.ndarray:
    return np.repeat(array[:, :, None], 3, axis=2).astype(np.float32)


ALPHA = np.concatenate([RGB, GREY[:, :, None]], axis=2)
SAME_PIXELS = {
    "pil": Image.fromarray(RGB),
    "hwc": RGB,
    "chw": RGB.transpose(2, 0, 1),
    "tensor_chw": torch.from_numpy(RGB).permute(2, 0, 1),
    "tensor_hwc": torch.from_numpy(RGB),
    "float_array": RGB.astype(np.float32),
    "double_tensor": torch.from_numpy(RGB).double(),
    "bfloat16_tensor": torch.from_numpy(RGB).to(torch.bfloat16),  # 8 bits of mantissa hold 0..255
    "int64_array": RGB.astype(np.int64),
    "alpha_array": ALPHA,
    "alpha_pil": Image.fromarray(ALPHA),
    "rgbx": Image.fromarray(RGB).convert("RGBX"),
    "nested": [[RGB]],
    "stack": RGB[None],
}


@pytest.mark.parametrize("form", list(SAME_PIXELS))
def test_all_forms_give_the_same_pixels(form):
    np.testing.assert_array_equal(pixels(SAME_PIXELS[form]), RGB)


GREY_FORMS = {
    "pil_l": (Image.fromarray(GREY), GREY),
    "array_2d": (GREY, GREY),
    "one_channel": (GREY[None], GREY),
    "palette": (Image.fromarray(GREY).convert("P"), GREY),
    "grey_alpha": (Image.fromarray(GREY).convert("LA"), GREY),
    "one_bit": (Image.fromarray(GREY > 127), (GREY > 127) * 255),
    "bool_array": (GREY > 127, (GREY > 127) * 255),
    # 65535 = 257 * 255; PIL's own conversion to RGB would clip all of these at 255
    "uint16_array": (GREY.astype(np.uint16) * 257, GREY),
    "sixteen_bit_pil": (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
    "pil_int32": (Image.fromarray(GREY.astype(np.int32) * 257), GREY),
    "pil_float": (Image.fromarray(GREY.astype(np.float32) + 0.75), GREY + 0.75),
}


@pytest.mark.parametrize("form", list(GREY_FORMS))
def test_grey_images_of_every_mode(form):
    image, expected = GREY_FORMS[form]
    np.testing.assert_allclose(pixels(image), grey_as_rgb(expected), rtol=1e-6)


def test_cmyk_is_converted_by_pil():
    image = Image.fromarray(RGB).convert("CMYK")
    np.testing.assert_array_equal(pixels(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("form", ["path", "str", "bytes", "pil"])
def test_exif_orientation_is_applied(tmp_path, form):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to view
    path = tmp_path / "photo.png"
    Image.fromarray(RGB).save(path, exif=exif)
    image = {"path": path, "str": str(path), "bytes": path.read_bytes(), "pil": Image.open(path)}[form]
    np.testing.assert_array_equal(pixels(image), np.rot90(RGB, -1))


def test_list_of_mixed_forms_keeps_the_order(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    loaded = load_images([path, GREY, [torch.zeros(3, 5, 7)]])
    assert [spatial_size(image) for image in loaded] == [(20, 30), (20, 30), (5, 7)]


def test_both_ends_could_be_channels():
    # arrays are channels-last by convention, tensors channels-first; input_data_format decides otherwise
    array = np.zeros((3, 8, 4), dtype=np.uint8)
    assert spatial_size(load_images(array)[0]) == (3, 8)
    assert spatial_size(load_images(torch.from_numpy(array))[0]) == (8, 4)
    assert spatial_size(load_images(array, "channels_first")[0]) == (8, 4)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((0, 30, 3), np.uint8), r"\(0, 30, 3\)"),
        (np.zeros((30, 0), np.uint8), "width 0"),
        (np.zeros((20, 30, 0), np.uint8), "0 channels"),
        (np.zeros((20, 30, 2), np.uint8), "2 channels"),
        (np.zeros((5, 20, 30), np.float32), "5 channels"),
        (torch.zeros(2, 20, 30), "2 channels"),
        (np.zeros((2, 2, 2, 20, 30), np.uint8), r"\(2, 2, 2, 20, 30\)"),
        (np.zeros(7, np.uint8), r"\(7,\)"),
        (Image.new("RGB", (0, 4)), "width 0"),
        (np.full((4, 4), 300), "300"),
        (np.full((4, 4), -1), "-1"),
        (np.full((4, 4), np.nan, np.float32), "not finite"),
        (np.zeros((4, 4), np.complex64), "complex64"),
        ([], "at least one image"),
    ],
)
def test_bad_image_is_named(image, found):
    with pytest.raises(ValueError, match=found):
        M2FImageProcessor()(image)


def test_bad_image_is_found_before_the_good_ones_are_resized(monkeypatch):
    def fail(*args):
        raise AssertionError("computed before the check")

    monkeypatch.setattr("m2f.image_processing.batching.resize_rgb", fail)
    with pytest.raises(ValueError, match="5 channels"):
        M2FImageProcessor()([RGB, np.zeros((20, 30, 5), np.uint8)])


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "no.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="no.png"):
        load_images(tmp_path / "no.png")
    with pytest.raises(FileNotFoundError, match="missing.png"):
        load_images(Path("missing.png"))
    with pytest.raises(TypeError, match="object"):
        load_images(object())
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG")
    with pytest.raises(ValueError, match="decode"):
        load_images(buffer.getvalue()[:-600])


def test_do_convert_rgb_false_demands_three_channels():
    np.testing.assert_array_equal(pixels(RGB, do_convert_rgb=False), RGB)
    with pytest.raises(ValueError, match="PIL mode L"):
        pixels(Image.fromarray(GREY), do_convert_rgb=False)
    with pytest.raises(ValueError, match="4 channels"):
        pixels(ALPHA, do_convert_rgb=False)


def test_the_callers_array_is_not_changed():
    image = RGB.astype(np.float32)
    M2FImageProcessor(do_resize=False)(image)
    np.testing.assert_array_equal(image, RGB)


def test_resizing_a_float_image_equals_resizing_its_bytes_but_for_rounding():
    # PIL rounds the bytes once, at the end of each of two passes: 0.5 + 0.5
    one = M2FImageProcessor(size=33, do_normalize=False, rescale_factor=1.0)
    from_bytes, from_floats = (
        one(image, return_tensors="pt")["pixel_values"] for image in (RGB, RGB.astype(np.float32))
    )
    assert (from_bytes - from_floats).abs().max() <= 1.01
    assert (from_bytes - from_floats).abs().mean() < 0.5


def test_float_image_scaled_to_one_is_warned_about(caplog, monkeypatch):
    warnings = []
    monkeypatch.setattr("m2f.image_processing.batching.logger.warning_once", warnings.append)
    M2FImageProcessor(do_resize=False)(RGB.astype(np.float32))
    M2FImageProcessor(do_resize=False, do_rescale=False)(RGB / 255)
    assert not warnings
    M2FImageProcessor(do_resize=False)(RGB / 255)
    assert "do_rescale=False" in warnings[0]


def test_label_maps_of_every_form():
    ids = RNG.integers(0, 2**24, (20, 30))
    small = (ids % 200).astype(np.uint8)
    palette = Image.fromarray(small).convert("P")
    palette.putdata(small.ravel())
    for item in (ids, ids[:, :, None], ids[None], torch.from_numpy(ids), Image.fromarray(ids.astype(np.int32))):
        np.testing.assert_array_equal(load_label_maps(item, 1)[0], ids)
    np.testing.assert_array_equal(load_label_maps([palette], 1)[0], small)
    np.testing.assert_array_equal(load_label_maps(np.stack([ids, ids + 1]), 2)[1], ids + 1)
    np.testing.assert_array_equal(load_label_maps(small > 100, 1)[0], small > 100)


@pytest.mark.parametrize(
    ("label_map", "found"),
    [
        (RGB, r"R \+ 256"),
        (np.full((4, 4), 0.5, np.float32), "float32"),  # whole floats are labels
        (np.zeros((0, 4), np.int32), "height 0"),
        (np.full((4, 4), 2**40), str(2**40)),
        ([np.zeros((4, 4), np.int32)] * 2, "2 segmentation maps for 1 images"),
    ],
)
def test_bad_label_map_is_named(label_map, found):
    with pytest.raises(ValueError, match=found):
        load_label_maps(label_map, 1)


def test_label_maps_are_resized_to_the_nearest_pixel():
    # doubling repeats each id; ids of 24 bits survive
    ids = np.array([[1, 2**24 - 1], [255, 256]], dtype=np.int32)
    np.testing.assert_array_equal(resize_label_map(ids, (4, 4)), ids.repeat(2, 0).repeat(2, 1))


def test_sixteen_bit_values_keep_their_precision():
    image = to_rgb(load_images(np.array([[1, 65535]], dtype=np.uint16))[0])
    np.testing.assert_allclose(image[0, :, 0], [1 / 257, 255.0], rtol=1e-6)


def test_pages_of_a_file_are_said_of_images_and_refused_of_labels(tmp_path, monkeypatch):
    """The page of a PIL image is the caller's choice."""
    said, path = [], tmp_path / "x.tif"
    monkeypatch.setattr("m2f.image_processing.image_loading.logger.warning_once", said.append)
    pages = [Image.new("L", (4, 3), value) for value in (1, 2)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    (image,) = load_images(path)
    assert np.asarray(image).max() == 1
    assert said == ["an image has several pages or frames, of which the first alone is read"]
    for source in (path, path.read_bytes()):
        with pytest.raises(ValueError, match="has 2 pages or frames; a segmentation map has one"):
            load_label_maps(source, 1)
    chosen = Image.open(path)
    chosen.seek(1)
    assert np.asarray(load_images(chosen)[0]).max() == 2 and load_label_maps(chosen, 1)[0].max() == 2
    assert len(said) == 1
