"""Colour images with 16 bits a channel, of which Pillow decodes the upper 8 alone: an image of 12 bits in such a file
would be black."""

import sys
from typing import TypeGuard

import numpy as np
from PIL import Image, ImageFile

from m2f.image_processing.image_opening import reopened, upright

# Pillow's raw modes of such images -> those that read the other byte of each value.
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_RAW_MODES = ("RGB;16", "RGBA;16", "RGBX;16")
_GREY_ALPHA = "LA;16B"  # of PNG, which has no counterpart for the lower bytes: read as four channels of 8 bits


def upright_pixels(image: Image.Image, keep_alpha: bool = False) -> Image.Image | np.ndarray:
    """The decoded image, upright; where it `has_deep_channels`, (H,W,C) uint16 with 1 or 3 channels (2 or 4 with
    alpha), and the image is left as it is.

    Raises:
        Whatever Pillow raises for a damaged file.
    """
    if not has_deep_channels(image):
        return upright(image)
    raw_mode = _raw_mode(image)
    if raw_mode == _GREY_ALPHA:
        grey = np.asarray(upright(_read_as(image, "RGBA"))).astype(np.uint16)
        return (grey[:, :, ::2] << 8 | grey[:, :, 1::2])[:, :, : 1 + keep_alpha]
    other = raw_mode[:-1] + _OTHER_BYTE[raw_mode[-1]]
    channels = 4 if keep_alpha else 3
    high, low = (np.asarray(upright(_read_as(image, mode)))[:, :, :channels] for mode in (raw_mode, other))
    return (high.astype(np.uint16) << 8) | low


def has_deep_channels(image: Image.Image) -> TypeGuard[ImageFile.ImageFile]:
    """Whether an image that is not decoded yet is one of those of which Pillow would drop the lower bytes."""
    raw_mode = _raw_mode(image)
    return raw_mode == _GREY_ALPHA or raw_mode[:-1] in _RAW_MODES and raw_mode[-1] in _OTHER_BYTE


def _raw_mode(image: Image.Image) -> str:
    """Of an image whose file is open and not decoded, and at its first frame; else ""."""
    tiles = getattr(image, "tile", None)
    if not tiles or getattr(image, "fp", None) is None or image.tell():
        return ""
    args = tiles[0].args
    raw_mode = args if isinstance(args, str) else args[0] if isinstance(args, tuple) and args else ""
    return raw_mode if isinstance(raw_mode, str) else ""


def _read_as(image: ImageFile.ImageFile, raw_mode: str) -> Image.Image:
    """The image's file decoded anew, with another meaning of its bytes."""
    copy = reopened(image)
    copy.tile = [
        tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)
        for tile in copy.tile
    ]
    copy.load()
    return copy
