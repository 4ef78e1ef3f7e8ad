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

LoadedImage = Image.Image | np.ndarray  # the array is (H, W, channels)

SEVERAL_PAGES = "an image has several pages or frames, of which the first alone is read"
_CHANNELS = (1, 3, 4)


def load_images(images: Any, input_data_format: str | None = None) -> list[LoadedImage]:
    """One image or any nesting of lists of them as a flat list, each checked.

    Args:
        images: path, URL, bytes, file object, PIL image of any mode, (H,W), (H,W,C) or (C,H,W) array or tensor with C
            in 1, 3, 4 (the fourth channel, alpha, is dropped), what `known_form` makes one of these, a 4-d array or
            tensor of such images, or lists of these. The EXIF orientation of files, bytes and PIL images is applied.
        input_data_format: "channels_first" or "channels_last" for arrays; None finds the channels by their number.
            Where both ends could be channels, an array is taken as channels-last and a tensor as channels-first.

    Raises:
        ValueError: no image, an image without pixels, or one whose channels cannot be found.
    """
    images = _flatten(images, array_ndim=4)
    if not images:
        raise ValueError("images is an empty list; pass at least one image")
    # One that is given twice is read once: two threads must not decode the same PIL image.
    unique = {id(image): image for image in images}
    loaded = map_in_threads(functools.partial(_load_one_image, input_data_format=input_data_format), unique.values())
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
    return (image.height, image.width) if isinstance(image, Image.Image) else (image.shape[0], image.shape[1])


def to_rgb(image: LoadedImage, white_level: WhiteLevel = None, keep_floats: bool = False) -> LoadedImage:
    """The image as a PIL image of mode RGB, or as a float32 array (H,W,3) where eight bits cannot hold it.

    White is at 255, see `m2f.image_processing.white_level`; where it had to be guessed, one warning says so. Float
    values of arrays are kept unless `white_level` is a number or "data"; 0..255 is expected as long as the processor
    rescales.

    Args:
        keep_floats: the same for the floats of files and PIL images, which else may be in 0..1 too.

    Raises:
        ValueError: a float value is not finite, or an integer is negative or exceeds 8 bits in an array of 32 or more.
    """
    rgb, guess = rgb_with_guess(image, white_level, keep_floats)
    if guess:
        logger.warning_once(guess)
    return rgb


def rgb_with_guess(
    image: LoadedImage, white_level: WhiteLevel = None, keep_floats: bool = False
) -> tuple[LoadedImage, str]:
    """As `to_rgb`, which has no warning but what had to be guessed; "" if nothing was."""
    if isinstance(image, Image.Image) and not has_levels_of_its_own(image):
        return image.convert("RGB"), ""
    found: Levels
    if isinstance(image, Image.Image):
        found = levels_of_pil(image, white_level, keep_floats)
    else:
        found = levels_of_array(image, white_level)
    pixels = np.repeat(found.pixels, 3, axis=2) if found.pixels.shape[2] == 1 else found.pixels[:, :, :3]
    is_small = pixels.dtype == np.uint8
    return Image.fromarray(np.ascontiguousarray(pixels)) if is_small else pixels, found.guess


def resize_rgb(image: LoadedImage, size: tuple[int, int], resample: int) -> np.ndarray:
    """(H,W,3) uint8 or float32 array of the result of `to_rgb`, resized by PIL (antialiased) as in the original.

    It may be read-only.
    """
    target = Image.Resampling(resample)
    if isinstance(image, Image.Image):
        if size != spatial_size(image):
            image = image.resize(size[::-1], target)
        return np.asarray(image)
    if size == spatial_size(image):
        return image
    planes = [Image.fromarray(np.ascontiguousarray(image[:, :, channel])) for channel in range(3)]
    return np.stack([np.asarray(plane.resize(size[::-1], target)) for plane in planes], axis=2)


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


def _load_one_image(image: Any, input_data_format: str | None) -> LoadedImage:
    if isinstance(image, np.ndarray | torch.Tensor):
        prefer_first = isinstance(image, torch.Tensor)
        return _channels_last(_to_numpy(image), input_data_format, prefer_first)
    opened, name = _opened(image, _load_text)
    if opened is not image and page_count(opened) > 1:  # the page of a PIL image is the caller's choice
        logger.warning_once(SEVERAL_PAGES)
    _check_pixels((opened.height, opened.width), f"a PIL image of mode {opened.mode}")
    return decoded(lambda: upright_pixels(opened), name)


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
    _check_pixels(array.shape, found)
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
    if opened is not item and (pages := page_count(opened)) > 1:
        raise ValueError(f"{name} has {pages} pages or frames; a segmentation map has one")
    return decoded(lambda: upright(opened), name)


def _opened(image: Any, load_text: Callable[[str], tuple[Image.Image, str]] | None) -> tuple[Image.Image, str]:
    """The PIL image, which may not be decoded yet, and what messages call it. `load_text` reads a string that is no
    file: a URL or base64 data."""
    if isinstance(image, str | os.PathLike) and os.path.isfile(image):
        return _open(image, f"the file {os.fspath(image)}")
    if isinstance(image, bytes | bytearray):
        return _open(image, f"{len(image)} bytes")
    if isinstance(image, str) and load_text is not None:
        return load_text(image)
    if isinstance(image, str | os.PathLike):
        raise FileNotFoundError(f"no such file: {os.fspath(image)}")
    if not isinstance(image, Image.Image):
        raise TypeError(f"expected a path, bytes, PIL image, array or tensor, got {type(image).__name__}")
    return image, f"a PIL image of mode {image.mode}"


def _open(source: str | os.PathLike | bytes | bytearray, name: str) -> tuple[Image.Image, str]:
    # Formats of all plugins, as in transformers: the caller names each image, and none comes from a dataset's files.
    return open_image(source, name, formats=None), name


def _load_text(text: str) -> tuple[Image.Image, str]:
    """An image at an address, or in base64: as `transformers.image_utils.load_image` gets it, whose conversion to RGB
    would cut images of more than 8 bits off at 255."""
    shown = text if len(text) <= 80 else f"{text[:80]}..."
    if is_url(text):
        return _open(download(text), shown_url(text))
    data = text.partition(",")[2] if text.startswith("data:image/") else text
    try:
        content = base64.decodebytes(data.encode())
    except (binascii.Error, UnicodeEncodeError):
        content = b""
    if not content:
        raise ValueError(f"no such file: {shown}; nor is it an address that starts with http, or an image in base64")
    try:
        return _open(content, "the image in base64")
    except ValueError as error:
        raise ValueError(f"no such file: {shown}; nor is it an image in base64") from error


def _to_numpy(array: np.ndarray | torch.Tensor) -> np.ndarray:
    if not isinstance(array, torch.Tensor):
        return array
    array = array.detach().cpu()
    return (array.float() if array.dtype in (torch.bfloat16, torch.float16) else array).numpy()


def _channels_last(array: np.ndarray, input_data_format: str | None, prefer_first: bool) -> np.ndarray:
    """(H,W,C) view of a (H,W), (H,W,C) or (C,H,W) array."""
    found = f"an array of shape {tuple(array.shape)}"
    if array.ndim == 2:
        array = array[:, :, None]
    elif array.ndim != 3:
        raise ValueError(f"{found} is no image: expected (H,W), (H,W,C) or (C,H,W)")
    else:
        axis = _channel_axis(array.shape, input_data_format, prefer_first, found)
        array = np.moveaxis(array, axis, 2)
    _check_pixels(array.shape[:2], found)
    return array


def _channel_axis(shape: tuple[int, ...], input_data_format: str | None, prefer_first: bool, found: str) -> int:
    axes = [axis for axis in ((0, 2) if prefer_first else (2, 0)) if shape[axis] in _CHANNELS]
    if input_data_format is not None:
        wanted = {"channels_first": 0, "channels_last": 2}.get(
            str(getattr(input_data_format, "value", input_data_format))
        )
        if wanted is None:
            raise ValueError(f"input_data_format must be channels_first or channels_last, got {input_data_format!r}")
        axes = [axis for axis in axes if axis == wanted]
    if not axes:
        expected = (
            "1, 3 or 4 channels, first or last" if input_data_format is None else f"1, 3 or 4, {input_data_format}"
        )
        raise ValueError(f"{found} is no image: expected {expected}; {min(shape[0], shape[2])} channels were found")
    return axes[0]


def _check_pixels(size: tuple[int, ...], found: str) -> None:
    if 0 in size:
        raise ValueError(f"{found} has no pixels: height {size[0]}, width {size[1]}; both must be at least 1")
