"""The one way in which images are opened: which formats, what a damaged one raises, and which way up it stands."""

import io
import os
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from m2f.image_processing.channel_counts import ChannelCountError
from m2f.image_processing.white_level import content_of_open_file, note_highest_in_file

# What images are stored as. Pillow knows more formats, among them EPS, for which it runs Ghostscript on the file.
IMAGE_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")
ARRAY_SUFFIX = ".npy"  # see m2f.image_processing.band_files
IMAGE_SUFFIXES = frozenset(
    f".{suffix}" for suffix in "jpg jpeg png tif tiff bmp webp gif ppm pgm pnm jp2 avif mpo npy".split()
)
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
# EXIF orientation -> what brings the stored pixels upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The formats whose files may hold several images that are shown one after the other. In JPEG files (MPO) the others
# are previews and depths.
_PAGED_FORMATS = ("TIFF", "GIF", "WEBP", "PNG", "AVIF")
_SUBFILE_TYPE = 254  # TIFF's tag: of a page that is a smaller copy (1) or a mask (4) of another
_COPY_OR_MASK = 1 | 4
_SIDEWAYS = (5, 6, 7, 8)  # the orientations that exchange height and width
# Where Pillow looks for an orientation in what it keeps of a file.
_EXIF_ENTRIES = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")

Read = TypeVar("Read")


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


def open_image(
    source: str | os.PathLike | bytes | bytearray, name: str, formats: Sequence[str] | None = IMAGE_FORMATS
) -> ImageFile.ImageFile:
    """A PIL image whose pixels are not decoded yet.

    Args:
        source: path or content of a file.
        name: what messages call it.
        formats: those that may be taken; None: every one that Pillow knows.

    Raises:
        ValueError: no image of one of the formats, or larger than Pillow's limit.
    """
    file = io.BytesIO(source) if isinstance(source, bytes | bytearray) else source
    return decoded(lambda: _open(file, formats), name)


def reopened(image: ImageFile.ImageFile) -> ImageFile.ImageFile:
    """The same image, not decoded, from the open file of one that may be decoded afterwards as it could before."""
    assert image.format is not None  # an image that is read from a file has one
    return Image.open(io.BytesIO(content_of_open_file(image)), formats=[image.format])


def decoded(read: Callable[[], Read], name: str) -> Read:
    """What `read` returns; whatever it raises for a damaged image is a ValueError with the image's name."""
    try:
        return read()
    except ChannelCountError:  # which has the name, and is no damage
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(f"cannot decode {name} as an image: {error}{_allowing(str(error))}") from error
    except _DECODE_ERRORS as error:
        is_unknown = isinstance(error, UnidentifiedImageError)  # whose message is an address in memory
        reason = "it is empty, cut off at its beginning or of an unknown format" if is_unknown else str(error)
        raise ValueError(f"cannot decode {name} as an image: {reason or type(error).__name__}") from error


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 where it is absent or none of these.

    Of a TIFF it is 1: Pillow itself turns these when it decodes them, and gives the size that they will have. A PNG
    without the tag before its pixels is decoded, because the tag may follow them.
    """
    return 1 if image.format == "TIFF" else _tag(image)


def upright(image: Image.Image) -> Image.Image:
    """The decoded image with its orientation applied, and forgotten."""
    image.load()  # first, as Pillow itself turns TIFF files when it decodes them
    turn = TURNS.get(_tag(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    for entry in _EXIF_ENTRIES:  # else the next who applies it turns the image again
        turned.info.pop(entry, None)
    return turned


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) that an image which is not decoded yet will have, upright."""
    return image.size if orientation(image) in _SIDEWAYS else image.size[::-1]


def page_count(image: Image.Image) -> int:
    """Pages or frames of an image whose file is open; the smaller copies and masks in a TIFF are none."""
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            return _tiff_pages(image)
        return getattr(image, "n_frames", 1) if image.format in _PAGED_FORMATS else 1
    except _DECODE_ERRORS:  # of what follows the first page, which is what is read
        return 1


def _allowing(text: str) -> str:
    """What to do about an image that Pillow refuses, from its words."""
    numbers = re.findall(r"(\d+) pixels", text)
    if len(numbers) != 2:
        return ""
    pixels, limit = map(int, numbers)
    return (
        f" Cut it into parts of at most {limit} pixels; or, if the file can be trusted, allow its {pixels} pixels, "
        f"which take {3 * pixels / 2**30:.1f} GiB: m2f predict --max-pixels {pixels}, best with --tile, or in Python "
        f"PIL.Image.MAX_IMAGE_PIXELS = {-(-pixels // 2)}"
    )


def _tiff_pages(image: TiffImagePlugin.TiffImageFile) -> int:
    if not image.tag_v2.next:
        return 1
    pages, other = 1, reopened(image)  # the image itself stays at its first page
    assert isinstance(other, TiffImagePlugin.TiffImageFile)
    for number in range(1, other.n_frames):
        other.seek(number)
        pages += not other.tag_v2.get(_SUBFILE_TYPE, 0) & _COPY_OR_MASK
    return pages


def _open(file: str | os.PathLike | io.BytesIO, formats: Sequence[str] | None) -> ImageFile.ImageFile:
    image = Image.open(file, formats=None if formats is None else tuple(formats))
    note_highest_in_file(image)
    return image


def _tag(image: Image.Image) -> int:
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if isinstance(value, int) and value in TURNS else 1
