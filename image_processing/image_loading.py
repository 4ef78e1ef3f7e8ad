"""Reading images and label maps in all the forms they come in: paths, bytes, files, PIL images, arrays and tensors.

Two steps, so that a bad input is reported before anything is computed: `load_*` opens, orients and checks every input;
`to_rgb` and `resize_*` then work on what is known to be good.
"""

import base64
import binascii
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from m2f.image_processing.band_files import FileArray, read_bands
from m2f.image_processing.band_image import BandImage
from m2f.image_processing.channel_counts import USUAL_CHANNELS, channel_count_error, channels_last, check_pixels
from m2f.image_processing.deep_channels import upright_pixels
from m2f.image_processing.image_address import is_url, shown_url
from m2f.image_processing.image_download import download
from m2f.image_processing.image_forms import known_form
from m2f.image_processing.image_opening import decoded, open_image, page_count, upright
from m2f.image_processing.image_threads import map_in_threads
from m2f.image_processing.white_level import (
    Levels,
    WhiteLevel,
    has_levels_of_its_own,
    levels_of_array,
    levels_of_pil,
)

logger = logging.get_logger(__name__)

LoadedImage = Image.Image | np.ndarray | BandImage  # the array is (H, W, channels)

SEVERAL_PAGES = "an image has several pages or frames, of which the first alone is read"
_PLAIN_MODES = ("L", "LA", "RGB", "RGBA")


def load_images(
    images: Any, input_data_format: str | None = None, num_channels: int = USUAL_CHANNELS
) -> list[LoadedImage]:
    """One image or any nesting of lists of them as a flat list, each checked.

    Args:
        images: path, URL, bytes, file object, PIL image of any mode, (H,W), (H,W,C) or (C,H,W) array or tensor with C
            in 1, 3, 4 (the fourth channel, alpha, is dropped), what `known_form` makes one of these, a 4-d array or
            tensor of such images, or lists of these. The EXIF orientation of files, bytes and PIL images is applied.
            Files may be .npy, and TIFF of several bands or pages, see `m2f.image_processing.band_files`.
        input_data_format: "channels_first" or "channels_last" for arrays; None finds the channels by their number.
            Where both ends could be channels, an array is taken as channels-last and a tensor as channels-first.
        num_channels: where it is not 3, C is this, and see `exact_channels` for images that are no arrays.

    Raises:
        ValueError: no image, an image without pixels, or one whose channels cannot be found.
    """
    images = _flatten(images, array_ndim=4)
    if not images:
        raise ValueError("images is an empty list; pass at least one image")
    # One that is given twice is read once: two threads must not decode the same PIL image.
    unique = {id(image): image for image in images}
    load = functools.partial(_load_one_image, input_data_format=input_data_format, num_channels=num_channels)
    loaded = map_in_threads(load, unique.values())
    found = dict(zip(unique, loaded, strict=True))
    return [found[id(image)] for image in images]


def load_label_maps(segmentation_maps: Any, count: int) -> list[np.ndarray]:
    """One label map or a list of them as int32 arrays (H,W), checked.

    Args:
        segmentation_maps: path, bytes, PIL image (palette images give their indices), array or tensor (H,W), (H,W,1)
            or (1,H,W) of integers, or of floats that are whole numbers; an array (count,H,W) is `count` maps.
        count: number of images.

    Raises:
        ValueError: the number of maps is not `count`; a map is empty, not of numbers or has more than one channel; a
            value is no whole number or does not fit into 32 bits.
    """
    if isinstance(segmentation_maps, np.ndarray | torch.Tensor) and segmentation_maps.ndim >= 3:
        segmentation_maps = list(segmentation_maps) if len(segmentation_maps) == count else [segmentation_maps]
    maps = [_load_one_label_map(item) for item in _flatten(segmentation_maps, array_ndim=None)]
    if len(maps) != count:
        raise ValueError(f"got {len(maps)} segmentation maps for {count} images; pass one map for each image")
    return maps


def spatial_size(image: LoadedImage) -> tuple[int, int]:
    """(height, width) of a loaded image or label map."""
    return (image.shape[0], image.shape[1]) if isinstance(image, np.ndarray) else (image.height, image.width)


def exact_channels(image: LoadedImage, name: str, num_channels: int) -> LoadedImage:
    """An upright image with `num_channels`, which are not 3, as it is or as an array (H,W,C).

    Alpha counts as a channel; where there is one channel too many and it is alpha, it is left out. For one channel a
    colour image will do whose channels are equal.

    Raises:
        ChannelCountError: it has others.
    """
    if isinstance(image, BandImage | FileArray):  # which say no more than their channels
        found = image.channels if isinstance(image, BandImage) else image.shape[2]
        if found == num_channels:
            return image
        raise channel_count_error(name, found, num_channels)
    if isinstance(image, Image.Image) and has_levels_of_its_own(image):
        if num_channels == 1:
            return image
        raise channel_count_error(name, 1, num_channels)
    pixels = _plain_channels(image) if isinstance(image, Image.Image) else image
    found = pixels.shape[2]
    if found == num_channels + 1 and found in (2, 4):
        pixels = pixels[:, :, :num_channels]
    is_grey = num_channels == 1 and found > 2 and bool((pixels[:, :, :1] == pixels[:, :, 1:3]).all())
    pixels = pixels[:, :, :1] if is_grey else pixels
    if pixels.shape[2] != num_channels:
        raise channel_count_error(name, found, num_channels)
    return pixels


def _plain_channels(image: Image.Image) -> np.ndarray:
    """(H,W,C) uint8 of a PIL image of 8 bits: L, LA, RGB or RGBA."""
    if image.mode not in _PLAIN_MODES:
        has_alpha = image.mode in ("PA", "La", "RGBa") or "transparency" in image.info
        image = image.convert("L" if image.mode == "1" else "RGBA" if has_alpha else "RGB")
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)


def to_rgb(
    image: LoadedImage,
    white_level: WhiteLevel = None,
    keep_floats: bool = False,
    num_channels: int = USUAL_CHANNELS,
) -> LoadedImage:
    """The image as a PIL image of mode RGB, or as a float32 array (H,W,3) where eight bits cannot hold it. Where
    `num_channels` is not 3, as an array (H,W,C) of uint8 or float32.

    White is at 255, see `m2f.image_processing.white_level`; where it had to be guessed, one warning says so. Float
    values of arrays are kept unless `white_level` is a number or "data"; 0..255 is expected as long as the processor
    rescales.

    Args:
        keep_floats: the same for the floats of files and PIL images, which else may be in 0..1 too.

    Raises:
        ValueError: a float value is not finite, or an integer is negative or exceeds 8 bits in an array of 32 or more.
    """
    rgb, guess = rgb_with_guess(image, white_level, keep_floats, num_channels)
    if guess:
        logger.warning_once(guess)
    return rgb


def rgb_with_guess(
    image: LoadedImage,
    white_level: WhiteLevel = None,
    keep_floats: bool = False,
    num_channels: int = USUAL_CHANNELS,
) -> tuple[LoadedImage, str]:
    """As `to_rgb`, which has no warning but what had to be guessed; "" if nothing was."""
    if isinstance(image, BandImage):  # whose white is at 255
        return image.pixels, ""
    if isinstance(image, Image.Image) and not has_levels_of_its_own(image):
        return image.convert("RGB"), ""
    found: Levels
    if isinstance(image, Image.Image):
        found = levels_of_pil(image, white_level, keep_floats)
    else:
        may_be_one = isinstance(image, FileArray) and not keep_floats
        found = levels_of_array(np.asarray(image), white_level, may_be_one=may_be_one)
    if num_channels != USUAL_CHANNELS:
        return found.pixels, found.guess
    pixels = np.repeat(found.pixels, 3, axis=2) if found.pixels.shape[2] == 1 else found.pixels[:, :, :3]
    is_small = pixels.dtype == np.uint8
    return Image.fromarray(np.ascontiguousarray(pixels)) if is_small else pixels, found.guess


def resize_rgb(image: LoadedImage, size: tuple[int, int], resample: int) -> np.ndarray:
    """(H,W,C) uint8 or float32 array of the result of `to_rgb`, resized by PIL (antialiased) as in the original.

    It may be read-only.
    """
    target = Image.Resampling(resample)
    if isinstance(image, Image.Image):
        if size != spatial_size(image):
            image = image.resize(size[::-1], target)
        return np.asarray(image)
    pixels = np.asarray(image)
    return pixels if size == spatial_size(image) else BandImage(pixels).resize(size[::-1], target).pixels


def resize_label_map(label_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H,W) int32 map resized with nearest neighbours; PIL's 32-bit mode keeps ids of more than 8 bits."""
    if size == label_map.shape:
        return label_map
    return np.asarray(Image.fromarray(label_map).resize(size[::-1], Image.Resampling.NEAREST))


def _flatten(items: Any, array_ndim: int | None) -> list:
    """Nested lists as one list of known forms; an array of `array_ndim` dimensions counts as a list too, and one of
    Python objects."""
    items = known_form(items)
    is_list = isinstance(items, list | tuple)
    is_stack = isinstance(items, np.ndarray | torch.Tensor) and items.ndim == array_ndim
    is_stack |= isinstance(items, np.ndarray) and items.ndim > 0 and items.dtype.kind in "OU"
    if not (is_list or is_stack):
        return [items]
    return [leaf for item in items for leaf in _flatten(item, array_ndim)]


def _load_one_image(image: Any, input_data_format: str | None, num_channels: int) -> LoadedImage:
    if isinstance(image, np.ndarray | torch.Tensor):
        prefer_first = isinstance(image, torch.Tensor)
        return channels_last(_to_numpy(image), input_data_format, prefer_first, num_channels)
    if isinstance(image, BandImage):
        return exact_channels(image, "an image", num_channels)
    opened, name = _opened(image, _load_text, num_channels)
    if isinstance(opened, FileArray):
        return opened
    if opened is not image and page_count(opened) > 1:  # the page of a PIL image is the caller's choice
        logger.warning_once(SEVERAL_PAGES)
    check_pixels((opened.height, opened.width), f"a PIL image of mode {opened.mode}")
    is_usual = num_channels == USUAL_CHANNELS
    pixels = decoded(lambda: upright_pixels(opened, keep_alpha=not is_usual), name)
    return pixels if is_usual else exact_channels(pixels, name, num_channels)


def _load_one_label_map(item: Any) -> np.ndarray:
    array = _to_numpy(item) if isinstance(item, np.ndarray | torch.Tensor) else np.asarray(_open_label_map(item))
    found = f"a segmentation map of shape {tuple(array.shape)}"
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[:, :, 0]
    if array.ndim != 2:
        raise ValueError(
            f"{found}: one number per pixel is expected, (H,W). Decode the colours of a COCO panoptic PNG first: "
            "id = R + 256 * G + 65536 * B"
        )
    check_pixels(array.shape, found)
    if array.dtype.kind not in "iubf":
        raise ValueError(f"{found} has dtype {array.dtype}; labels must be integers")
    if array.dtype.kind == "f":
        _check_whole_numbers(array, found)
    low, high = int(array.min()), int(array.max())  # as Python's: compared as float32, 2**31 would seem to fit
    if high > np.iinfo(np.int32).max or low < np.iinfo(np.int32).min:
        raise ValueError(f"{found} holds values from {low} to {high}; labels must fit into 32 bits")
    return np.ascontiguousarray(array, dtype=np.int32)


def _check_whole_numbers(array: np.ndarray, found: str) -> None:
    wrong = array[(array != np.rint(array)) | ~np.isfinite(array)]
    if wrong.size:
        raise ValueError(
            f"{found} has dtype {array.dtype} and holds {wrong[0]}; labels must be integers. Round the map, or give "
            "pixels without a label the value of ignore_index"
        )


def _open_label_map(item: Any) -> Image.Image:
    """The decoded, upright PIL image."""
    opened, name = _opened(item, None)
    assert isinstance(opened, Image.Image)
    if opened is not item and (pages := page_count(opened)) > 1:
        raise ValueError(f"{name} has {pages} pages or frames; a segmentation map has one")
    return decoded(lambda: upright(opened), name)


Opened = Image.Image | FileArray


def _opened(
    image: Any, load_text: Callable[[str, int | None], tuple[Opened, str]] | None, num_channels: int | None = None
) -> tuple[Opened, str]:
    """The PIL image, which may not be decoded yet, and what messages call it; or the array of a file that is not
    Pillow's.

    Args:
        load_text: reads a string that is no file: a URL or base64 data.
        num_channels: that are wanted; None: files are Pillow's.
    """
    if isinstance(image, str | os.PathLike) and os.path.isfile(image):
        return _open(image, f"the file {os.fspath(image)}", num_channels)
    if isinstance(image, bytes | bytearray):
        return _open(image, f"{len(image)} bytes", num_channels)
    if isinstance(image, str) and load_text is not None:
        return load_text(image, num_channels)
    if isinstance(image, str | os.PathLike):
        raise FileNotFoundError(f"no such file: {os.fspath(image)}")
    if not isinstance(image, Image.Image):
        raise TypeError(f"expected a path, bytes, PIL image, array or tensor, got {type(image).__name__}")
    return image, f"a PIL image of mode {image.mode}"


def _open(source: str | os.PathLike | bytes | bytearray, name: str, num_channels: int | None) -> tuple[Opened, str]:
    bands = None if num_channels is None else read_bands(source, name, num_channels)
    # Formats of all plugins, as in transformers: the caller names each image, and none comes from a dataset's files.
    return open_image(source, name, formats=None) if bands is None else bands, name


def _load_text(text: str, num_channels: int | None) -> tuple[Opened, str]:
    """An image at an address, or in base64: as `transformers.image_utils.load_image` gets it, whose conversion to RGB
    would cut images of more than 8 bits off at 255."""
    shown = text if len(text) <= 80 else f"{text[:80]}..."
    if is_url(text):
        return _open(download(text), shown_url(text), num_channels)
    data = text.partition(",")[2] if text.startswith("data:image/") else text
    try:
        content = base64.decodebytes(data.encode())
    except (binascii.Error, UnicodeEncodeError):
        content = b""
    if not content:
        raise ValueError(f"no such file: {shown}; nor is it an address that starts with http, or an image in base64")
    try:
        return _open(content, "the image in base64", num_channels)
    except ValueError as error:
        raise ValueError(f"no such file: {shown}; nor is it an image in base64") from error


def _to_numpy(array: np.ndarray | torch.Tensor) -> np.ndarray:
    if not isinstance(array, torch.Tensor):
        return array
    array = array.detach().cpu()
    return (array.float() if array.dtype in (torch.bfloat16, torch.float16) else array).numpy()
