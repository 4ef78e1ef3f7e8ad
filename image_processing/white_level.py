"""Which pixel value is white: one rule for the image processor and for every reader of images.

An image of 8 bits has its white at 255. Of one with more, `white_level` says it:

    None, "auto"  what the file states. Else, of integers by the highest value: up to 255 it is 255, up to 4095 (12
                  bits) 4095, up to 16383 (14 bits) 16383, and above the highest of the type, which it is too where all
                  values are multiples of 256 or 257 (8 bits spread over 16). 12 and 14 bits are a guess, and told.
                  Floats of files are in 0..255, or in 0..1 where none is higher, a guess too; those of arrays are in
                  0..255.
    "type"        the highest value of the integer type, or of the bits that the file states
    "data"        the highest value of the image
    a number      that value; higher ones are white too
"""

import math
import reprlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

WhiteLevel = str | int | float | None

_NAMES = ("type", "data")
_WHITE = 255
_SIXTEEN_BITS = 65535
# Of cameras, microscopes and scanners that write 16-bit files. Not 10: images of 12 bits are often dim, and those of a
# series are to be taken alike.
_USUAL_BITS = (12, 14)
_SPREAD_8_BITS = (256, 257)  # by a shift; as 65535 = 257 * 255 (PNG's way, and img_as_uint's)
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_TIFF_BITS = 258  # the tag BitsPerSample. MaxSampleValue (281) is a statistic, not to be scaled by (TIFF 6.0).
_HIGHEST_IN_FILE = "m2f_highest_in_file"
_REMEDY = "say which value is white with white_level: a number such as 4095 (12 bits), 'type' or 'data'"


class Levels(NamedTuple):
    """An image whose white is at 255.

    pixels: (H,W,C) uint8, or float32 where eight bits cannot hold the values.
    guess: what had to be guessed, for a message; "" if nothing was.
    """

    pixels: np.ndarray
    guess: str


def check_white_level(white_level: WhiteLevel) -> WhiteLevel:
    """The setting: None for "auto", and a number for its digits.

    Raises:
        ValueError: it is none of those at the top of this file.
    """
    if white_level is None or isinstance(white_level, str) and white_level in ("auto", *_NAMES):
        return None if white_level == "auto" else white_level
    try:
        number = math.nan if isinstance(white_level, bool) else float(white_level)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(
            "white_level must be 'auto', 'type', 'data' or a number above 0 such as 4095 (12 bits), got "
            f"{reprlib.repr(white_level)}"
        )
    return int(number) if number.is_integer() else number


def has_levels_of_its_own(image: Image.Image) -> bool:
    """Whether a PIL image has more than 8 bits, so that PIL's conversion to RGB would cut its values off at 255."""
    return image.mode == "F" or image.mode in _SIXTEEN_BIT_MODES


def note_highest_in_file(image: ImageFile.ImageFile):
    """Keeps what Pillow does not: the highest value that the file can hold, where Pillow spreads the file's values
    over 16 bits (PGM, JPEG 2000). To be called for an image that is opened and not decoded."""
    highest = None
    if image.format == "PPM" and image.mode == "I" and image.tile and isinstance(image.tile[0].args, tuple):
        highest = image.tile[0].args[-1]
    elif image.format == "JPEG2000" and image.mode == "I;16":
        highest = _highest_of_jpeg_2000(image)
    if highest is not None and highest < _SIXTEEN_BITS:
        image.info[_HIGHEST_IN_FILE] = highest


def levels_of_pil(image: Image.Image, white_level: WhiteLevel = None, keep_floats: bool = False) -> Levels:
    """A PIL image that `has_levels_of_its_own`; see `levels_of_array`.

    Args:
        keep_floats: unless `white_level` says otherwise, floats stay what they are, even in 0..1.
    """
    array, white_level = np.asarray(image)[:, :, None], check_white_level(white_level)
    stated = image.info.get(_HIGHEST_IN_FILE)
    if image.mode == "F":
        return levels_of_array(array, white_level, may_be_one=not keep_floats)
    low, high = int(array.min()), int(array.max())
    if low >= 0 and high <= _SIXTEEN_BITS:  # mode I has 32 bits, but is what some 16-bit files are opened as
        array = array.astype(np.uint16)
    elif low < 0 or not (white_level == "data" or _is_number(white_level)):
        kind = f"a PIL image of mode {image.mode}"
        raise ValueError(f"{kind} holds values from {low} to {high}; expected 0 to {_SIXTEEN_BITS}; {_remedy(low)}")
    if stated is not None:
        array = np.rint(array * (stated / _SIXTEEN_BITS)).astype(np.uint16)
    bits = image.tag_v2.get(_TIFF_BITS, (16,))[0] if hasattr(image, "tag_v2") else 16
    if 8 < bits < 16:
        stated = 2**bits - 1
    return levels_of_array(array, white_level, stated)


def levels_of_array(
    array: np.ndarray, white_level: WhiteLevel = None, stated: float | None = None, may_be_one: bool = False
) -> Levels:
    """The image with `white_level`, see the top of this file, brought to 255.

    Args:
        array: (H,W,C) integers, floats or booleans.
        stated: white as the image's file states it.
        may_be_one: floats may be in 0..1 too, which is guessed from the highest.

    Raises:
        ValueError: another type, a float that is not finite, a negative integer, or integers of more than 16 bits
            above 255 without a white level.
    """
    if array.dtype == np.uint8:
        return Levels(array, "")
    if array.dtype == np.bool_:
        return Levels(array.astype(np.uint8) * np.uint8(_WHITE), "")
    if array.dtype.kind not in "iuf":
        raise ValueError(f"an image of dtype {array.dtype}; expected integers, floats or booleans")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("an image holds values that are not finite (NaN or infinity)")
    if array.dtype.kind != "f":
        _check_not_negative(array)
    white, guess = _white(array, check_white_level(white_level), stated, may_be_one)
    if white == _WHITE and array.dtype.kind != "f" and array.max() <= _WHITE:
        return Levels(array.astype(np.uint8), guess)
    values = array.astype(np.float32)
    if white is not None:
        # Of 16 bits this divides by 257.
        np.minimum(np.divide(values, np.float32(white / _WHITE), out=values), np.float32(_WHITE), out=values)
    return Levels(values, guess)


def _white(
    array: np.ndarray, white_level: WhiteLevel, stated: float | None, may_be_one: bool
) -> tuple[float | None, str]:
    """White, None where values stay what they are; and what was guessed."""
    high = array.max().item()
    if white_level == "data":
        return high if high > 0 else None, ""
    if not isinstance(white_level, str) and white_level is not None:
        return white_level, ""
    if array.dtype.kind == "f":
        return _white_of_floats(high) if may_be_one and array.min() >= 0 else (None, "")
    if stated is not None:
        return stated, ""
    return (np.iinfo(array.dtype).max, "") if white_level == "type" else _white_of_integers(array, high)


def _white_of_floats(high: float) -> tuple[float | None, str]:
    return (1, _told("floats up to 1", "in 0..1", 1)) if 0 < high <= 1 else (None, "")


def _white_of_integers(array: np.ndarray, high: int) -> tuple[float, str]:
    if high <= _WHITE:
        return _WHITE, ""
    if array.dtype.itemsize > 2:
        low = array.min()
        raise ValueError(
            f"an image of dtype {array.dtype} holds values from {low} to {high}; expected 0 to 255; {_REMEDY}"
        )
    bits = next((bits for bits in _USUAL_BITS if high < 2**bits), None)
    if bits is None or any(not (array % factor).any() for factor in _SPREAD_8_BITS):
        return np.iinfo(array.dtype).max, ""
    white = 2**bits - 1
    return white, _told(f"{8 * array.dtype.itemsize} bits with no value above {white}", f"of {bits} bits", white)


def _told(found: str, taken: str, white: int) -> str:
    return (
        f"White is guessed: an image of {found} is taken for one {taken}, in which {white} is white. Others of its "
        f"series may be taken otherwise; say which value is white with white_level={white} (--white-level {white}), "
        "'type' or 'data'."
    )


def _is_number(white_level: WhiteLevel) -> bool:
    return white_level is not None and not isinstance(white_level, str)


def _check_not_negative(array: np.ndarray):
    low = int(array.min())
    if low < 0:
        found = f"an image of dtype {array.dtype} holds values from {low} to {int(array.max())}"
        raise ValueError(f"{found}; expected 0 to 255 or, with white_level, more; {_remedy(low)}")


def _remedy(low: int) -> str:
    return f"add {-low} so that the lowest value is 0, or cut out the window that you need" if low < 0 else _REMEDY


def content_of_open_file(image: ImageFile.ImageFile) -> bytes:
    """All of the file that an image which is not decoded yet will be read from."""
    file = image.fp
    assert file is not None  # Pillow closes it when it decodes
    position = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(position)
    return content


def _highest_of_jpeg_2000(image: ImageFile.ImageFile) -> int | None:
    """From the marker SIZ at the start of the codestream (ISO/IEC 15444-1, A.5.1)."""
    content = content_of_open_file(image)
    start = content.find(b"\xff\x4f\xff\x51")
    precision = content[start + 42 : start + 43] if start >= 0 else b""  # Ssiz of the first component
    return 2 ** ((precision[0] & 0x7F) + 1) - 1 if precision else None
