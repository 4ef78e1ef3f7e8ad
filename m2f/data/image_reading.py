"""Images on disk or in memory as upright RGB samples. Every error names the image."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from transformers.utils import logging

from m2f.data.segment_map import Sample, SegmentMap
from m2f.image_processing.deep_channels import deep_channels
from m2f.image_processing.image_input import rgb_with_guess
from m2f.image_processing.white_level import WhiteLevel, note_highest_in_file

logger = logging.get_logger(__name__)

# What images are stored as. Pillow knows more formats, among them EPS, for which it runs Ghostscript on the file.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")
SUFFIXES = frozenset(f".{suffix}" for suffix in "jpg jpeg png tif tiff bmp webp gif ppm pgm pnm jp2 avif mpo".split())
# Pillow raises any of these for a damaged file, as found by reading its plugins and by feeding it such files. A
# decompression bomb, an image of more than 2 * Image.MAX_IMAGE_PIXELS, is among them: that limit stays the caller's.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_EXIF_ORIENTATION = 0x0112
# EXIF orientation -> what brings the stored pixels upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The same for an array (..., H, W), for those that exchange height and width.
_SIDEWAYS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    5: lambda a: a.swapaxes(-1, -2),
    6: lambda a: a.swapaxes(-1, -2)[..., ::-1],
    7: lambda a: a.swapaxes(-1, -2)[..., ::-1, ::-1],
    8: lambda a: a.swapaxes(-1, -2)[..., ::-1, :],
}


class ImageFile:
    """An image that is opened; its pixels are decoded when the sample is asked for.

    Args:
        source: path or content of the file.
        name: what messages call it.
        white_level: see `m2f.image_processing.white_level`; one warning where white had to be guessed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no image of a known format, or one that is too large for Pillow's limit.
    """

    def __init__(self, source: Path | bytes, name: str, white_level: WhiteLevel = None):
        self.name, self.white_level = name, white_level
        self._image = open_image(file_content(source, name), name)
        decoded(lambda: note_highest_in_file(self._image), name)
        self._orientation = decoded(lambda: _orientation(self._image), name)
        self.stored_size = (self._image.height, self._image.width)
        self.size = self.stored_size[::-1] if self._orientation in _SIDEWAYS else self.stored_size

    def check_size(self, size: tuple[int, int], described_by: str):
        """Whether labels of `size` (H, W) can belong to the image: before they are made, as a wrong size may be huge.

        Raises:
            ValueError: the image has another size, upright as well as stored.
        """
        if size not in (self.size, self.stored_size):
            raise ValueError(
                f"{self.name} is {self.size[0]} x {self.size[1]} (height x width), but {described_by} says "
                f"{size[0]} x {size[1]}; labels would not fit"
            )

    def sample(self, segments: SegmentMap, name: str) -> Sample:
        """The upright image with its labels.

        Their size decides what the labels were drawn on: the upright image if it has that size, as most tools show it
        upright; otherwise the pixels as they are stored, and the labels are turned with the image.

        Raises:
            ValueError: the pixels cannot be decoded, or the labels have another size.
        """
        self.check_size(segments.size, "its label map")
        if segments.size != self.size:
            ids = np.ascontiguousarray(_SIDEWAYS[self._orientation](segments.ids))
            segments = SegmentMap(ids, segments.class_ids)
        image, guess = self.upright_rgb()
        return Sample(image, segments, name, guess)

    def upright_rgb(self) -> tuple[Image.Image, str]:
        """The upright image of 8 bits, and what had to be guessed for that; "" if nothing was.

        Raises:
            ValueError: the pixels cannot be decoded, or are floats outside 0..255.
        """
        image, guess = decoded(self._upright_rgb, self.name)
        if guess:
            logger.warning_once(guess)
        return image, guess

    def _upright_rgb(self) -> tuple[Image.Image, str]:
        deep = deep_channels(self._image, self._turned)
        if deep is None:
            self._image.load()
        rgb, guess = rgb_with_guess(self._turned(self._image) if deep is None else deep, self.white_level)
        if isinstance(rgb, Image.Image):
            return rgb, guess
        if rgb.min() < 0 or rgb.max() > 255:  # floats, whose range nothing tells
            raise ValueError(
                f"values reach from {rgb.min()} to {rgb.max()}; 0 to 255 is needed; say which value is white with "
                "white_level (--white-level), a number or 'data'"
            )
        return Image.fromarray(np.rint(rgb).astype(np.uint8)), guess

    def _turned(self, image: Image.Image) -> Image.Image:
        return image.transpose(_TURNS[self._orientation]) if self._orientation in _TURNS else image


def file_content(source: Path | bytes, name: str) -> bytes:
    """The bytes of a file, or those given.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read.
    """
    if isinstance(source, bytes):
        return source
    if not os.path.isfile(source):  # unlike Path.is_file, False for a name that no system takes
        raise FileNotFoundError(f"no such file: {name}")
    try:
        return source.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {name}: {error}") from error


def open_image(content: bytes, name: str, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """A PIL image whose pixels are not decoded yet.

    Raises:
        ValueError: no image of one of the formats, or larger than Pillow's limit.
    """
    return decoded(lambda: Image.open(io.BytesIO(content), formats=formats), name)


def decoded(read: Callable, name: str):
    """What `read` returns; whatever it raises for a damaged image is a ValueError with the image's name."""
    try:
        return read()
    except _DECODE_ERRORS as error:
        raise ValueError(f"cannot decode {name} as an image: {error or type(error).__name__}") from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 where it is absent or none of these."""
    # Pillow itself turns TIFF files when it decodes them.
    orientation = 1 if image.format == "TIFF" else image.getexif().get(_EXIF_ORIENTATION, 1)
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1
