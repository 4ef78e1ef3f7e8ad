"""Files of images that Pillow does not read, or not with all their channels: .npy, and TIFF of several bands or pages.

The latter need the package tifffile.
"""

import io
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from m2f.image_processing.band_image import BandImage
from m2f.image_processing.channel_counts import USUAL_CHANNELS, channel_count_error, channels_last
from m2f.image_processing.image_opening import TURNS, decoded

_NPY = b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*")
_BIG_TIFF = (b"II+\0", b"MM\0+")  # Pillow reads a few of these, and their tags are elsewhere
_WIDTH, _HEIGHT, _ORIENTATION, _SAMPLES, _EXTRA_SAMPLES = 256, 257, 274, 277, 338
_ASSOCIATED_ALPHA = (1,)  # the channels before it are multiplied with it, and Pillow divides them
# Of a file that is damaged, or whose tags cannot be what they should be.
_UNREADABLE = (OSError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, struct.error)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

Source = str | os.PathLike | bytes | bytearray


class FileArray(np.ndarray):
    """An array that comes from a file. Its floats may be in 0..1 as well as in 0..255, as those of other files."""


def read_bands(source: Source, name: str, num_channels: int) -> FileArray | None:
    """(H,W,C) of a file that is not Pillow's to read, upright and with its own type; None for others.

    Args:
        source: path or content.
        name: what messages call it.
        num_channels: C; where it is 3, a file may have 1.

    Raises:
        ValueError: it has another number, is damaged, is larger than Pillow's limit, or needs tifffile.
    """
    start = _start(source)
    if start.startswith(_NPY):
        array = decoded(lambda: _npy_array(_content(source)), name)
        array = channels_last(array, num_channels=num_channels, name=name)
    elif start[:4] in _TIFF + _BIG_TIFF and not _is_for_pillow(source, num_channels):
        array = decoded(lambda: _tiff_array(_content(source), name, num_channels), name)
    else:
        return None
    return array.view(FileArray)


def band_file_size(path: Path, num_channels: int) -> tuple[int, int] | None:
    """(height, width) of a file that `read_bands` reads, before it is turned upright; None where it does not tell."""
    try:
        if _start(path).startswith(_NPY):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return channels_last(array, num_channels=num_channels, name=str(path)).shape[:2]
        tags = _tags(path)
        return tags[_HEIGHT], tags[_WIDTH]
    except _UNREADABLE:
        return None


def _start(source: Source) -> bytes:
    if isinstance(source, bytes | bytearray):
        return bytes(source[:8])
    try:
        with open(source, "rb") as file:
            return file.read(8)
    except OSError:  # which the one who reads all of it tells
        return b""


def _content(source: Source) -> bytes | bytearray:
    return source if isinstance(source, bytes | bytearray) else Path(source).read_bytes()


def _npy_array(content: bytes | bytearray) -> np.ndarray:
    """Numbers alone; nothing is unpickled, and no memory taken for more than the file holds."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"it has version {version[0]}.{version[1]} of the format; save it anew with numpy.save")
    shape, is_fortran, dtype = _HEADERS[version](file)
    if dtype.kind not in "biuf":
        raise ValueError(f"it has dtype {dtype}; integers, floats or booleans are needed")
    count, start = int(np.prod(shape, dtype=object)), file.tell()
    if len(content) - start != count * dtype.itemsize:
        raise ValueError(
            f"it holds {len(content) - start} bytes, and its shape {shape} of {dtype} needs another number"
        )
    array = np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if is_fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _tags(source: Source) -> Mapping[int, Any]:
    """Of the first page of a TIFF."""
    with open(source, "rb") if isinstance(source, str | os.PathLike) else io.BytesIO(source) as file:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        return dict(tags)


def _is_for_pillow(source: Source, num_channels: int) -> bool:
    """Whether Pillow reads a TIFF with all channels that are wanted; with 3 it does as far as it can."""
    file = io.BytesIO(source) if isinstance(source, bytes | bytearray) else source
    try:
        with Image.open(file) as image:
            bands = len(image.getbands())
        if num_channels == USUAL_CHANNELS:
            return True
        tags = _tags(source)
    except (Image.DecompressionBombError, *_UNREADABLE):
        return not _has_bands(source, num_channels)
    samples = tags.get(_SAMPLES, 1)
    if samples == num_channels == 1:
        return True
    return samples == bands > 1 and tags.get(_EXTRA_SAMPLES) != _ASSOCIATED_ALPHA


def _has_bands(source: Source, num_channels: int) -> bool:
    """Whether a TIFF that Pillow refuses may be one of several bands, and not a damaged one."""
    try:
        tags = _tags(source)
    except _UNREADABLE:
        return _start(source)[:4] in _BIG_TIFF
    return {_WIDTH, _HEIGHT} <= set(tags) and (tags.get(_SAMPLES, 1) > 1 or num_channels != USUAL_CHANNELS)


def _tiff_array(content: bytes | bytearray, name: str, num_channels: int) -> np.ndarray:
    """The bands of the first page; where it has one, its equal pages as bands."""
    try:
        from tifffile import TiffFile
    except ImportError as error:
        raise ValueError("Pillow does not read such a TIFF; install tifffile: pip install tifffile") from error
    with TiffFile(io.BytesIO(content)) as file:
        series, page = file.series[0], file.pages[0]
        rows, columns = series.axes.find("Y"), series.axes.find("X")
        if min(rows, columns) < 0 or series.ndim > 3:
            raise ValueError(f"it has the axes {series.axes} of {series.shape}; rows, columns and one more are read")
        height, width = series.shape[rows], series.shape[columns]
        channels = series.size // max(1, height * width)
        if channels != num_channels and not (channels == 1 and num_channels == USUAL_CHANNELS):
            raise channel_count_error(name, channels, num_channels)
        _check_limit(height * width)
        array = np.moveaxis(series.asarray().reshape(series.shape), (rows, columns), (0, 1))
        array = array.reshape(height, width, channels)
        turn = TURNS.get(int(getattr(page.tags.get(_ORIENTATION), "value", 1)))
    return array if turn is None else BandImage(array).transpose(turn).pixels


def _check_limit(pixels: int):
    """Pillow's own."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > 2 * limit:
        raise Image.DecompressionBombError(f"Image size ({pixels} pixels) exceeds limit of {2 * limit} pixels")
