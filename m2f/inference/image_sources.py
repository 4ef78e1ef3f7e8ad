"""What a user names as images: files, folders, patterns, URLs and lists of them; and reading one image of any kind."""

import glob
import os
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from m2f.data.dataset_paths import image_files
from m2f.data.image_reading import ImageFile
from m2f.image_processing.band_image import BandImage, PixelImage
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.image_address import is_url, shown_url
from m2f.image_processing.image_download import download
from m2f.image_processing.image_forms import known_form, name_of_form
from m2f.image_processing.image_loading import LoadedImage, load_images, to_rgb
from m2f.image_processing.image_opening import IMAGE_FORMATS, IMAGE_SUFFIXES, decoded, file_content
from m2f.image_processing.white_level import WhiteLevel

STANDARD_INPUT = "-"
_WILDCARDS = "*?["


class ImageSource(NamedTuple):
    """An image to be read.

    location: path or URL.
    name: relative to what the user named, with "/" between folders.
    """

    location: str
    name: str

    @property
    def is_url(self) -> bool:
        return is_url(self.location)

    @property
    def shown(self) -> str:
        """The location for people and files, without the secrets of a URL."""
        return shown_url(self.location) if self.is_url else self.location

    def read(self, white_level: WhiteLevel = None, num_channels: int = USUAL_CHANNELS) -> PixelImage:
        """See `read_image`."""
        return read_image(self.location, white_level, num_channels)


def find_images(
    inputs: Sequence[str], standard_input: TextIO, allow_urls: bool = False, leave_out: Path | None = None
) -> list[ImageSource]:
    """The images that inputs name, each once, in their order; those of a folder sorted.

    Args:
        inputs: files, folders (searched with the folders in them), patterns such as "scans/**/*.png", URLs, and "-"
            for a list of these in `standard_input`, one a line.
        allow_urls: whether inputs may be downloaded.
        leave_out: a folder of which nothing is taken, because the results are written there, unless it, a folder or
            a file in it is named itself.

    Raises:
        FileNotFoundError: an input does not exist, or names no image.
        ValueError: an input is a URL, and these are not allowed.
    """
    words = [line for word in inputs for line in (_lines(standard_input) if word == STANDARD_INPUT else [word])]
    if not words:
        raise FileNotFoundError("no images found: the list on standard input is empty")
    hidden = leave_out and leave_out.resolve()
    found: dict[str, ImageSource] = {}
    for word in words:
        for source in _images_of(word, allow_urls, hidden):
            found.setdefault(source.location if source.is_url else os.path.realpath(source.location), source)
    return list(found.values())


def read_image(image: Any, white_level: WhiteLevel = None, num_channels: int = USUAL_CHANNELS) -> PixelImage:
    """An upright RGB image of 8 bits; where `num_channels` is not 3, a `BandImage`.

    Args:
        image: path, URL, bytes, file object, PIL image, array or tensor of (H,W), (H,W,C) or (C,H,W) with C in 1, 3,
            4, or what `known_form` makes one of these; uint8, 16-bit, bool, or float in 0..255. The EXIF orientation
            is applied.
        white_level: which value is white in images of more than 8 bits, see `m2f.image_processing.white_level`; one
            warning where white had to be guessed.
        num_channels: where it is not 3, the channels of the image, see `exact_channels`.

    Raises:
        ValueError: it is damaged, of an unknown format, or holds other values.
        OSError: it does not exist or cannot be downloaded.
    """
    given, image = image, known_form(image)
    if isinstance(image, str) and is_url(image):
        return _read_file(download(image), shown_url(image), white_level, num_channels)
    if isinstance(image, str | os.PathLike):
        return _read_file(Path(image), os.fspath(image), white_level, num_channels)
    if isinstance(image, bytes | bytearray):
        return _read_file(bytes(image), name_of_form(given) or f"{len(image)} bytes", white_level, num_channels)
    rgb = decoded(lambda: _rgb_in_memory(image, white_level, num_channels), "an image in memory")
    if isinstance(rgb, Image.Image):
        return rgb
    _check_range(values := np.asarray(rgb))
    is_usual = num_channels == USUAL_CHANNELS
    return Image.fromarray(np.rint(values).astype(np.uint8)) if is_usual else BandImage(values)


def name_of(image: Any) -> str:
    """What messages call an image that is given to Python: its file, or nothing."""
    return name_of_form(image)


def _read_file(source: Path | bytes, name: str, white_level: WhiteLevel, num_channels: int) -> PixelImage:
    try:
        file = ImageFile(file_content(source, name), name, white_level, num_channels)
    except ValueError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):  # its message names an object in memory
            raise ValueError(f"{name} is no image of a known format ({', '.join((*IMAGE_FORMATS, 'NPY'))})") from error
        raise
    return file.upright()[0]


def _rgb_in_memory(image: Any, white_level: WhiteLevel, num_channels: int) -> LoadedImage:
    loaded = load_images(image, num_channels=num_channels)[0]
    floats = loaded if isinstance(loaded, np.ndarray) and loaded.dtype.kind == "f" else None
    if floats is not None and white_level in (None, "auto", "type") and 0 < (highest := floats.max()) <= 1:
        raise ValueError(
            f"a float image holds values up to {highest:g}; multiply it by 255, 0 to 255 are expected, or give "
            "white_level=1"
        )
    return to_rgb(loaded, white_level, num_channels=num_channels)


def _check_range(array: np.ndarray):
    """Of floats, as they were or brought to 0..255."""
    lowest, highest = float(array.min()), float(array.max())
    if lowest < 0 or highest > 255:
        raise ValueError(
            f"an image holds values from {lowest:g} to {highest:g}; 0 to 255 are expected; scale it, or say which "
            "value is white with white_level"
        )


def _lines(standard_input: TextIO) -> list[str]:
    return [line.rstrip("\r\n") for line in standard_input if line.strip()]


def _images_of(word: str, allow_urls: bool, leave_out: Path | None) -> Iterable[ImageSource]:
    if is_url(word):
        if not allow_urls:
            raise ValueError(f"{shown_url(word)} is a URL; give --allow-urls to download it")
        return [ImageSource(word, _name_of_url(word))]
    if os.path.isdir(word):
        found = _images_in(word, leave_out)
    elif os.path.lexists(word):
        return [ImageSource(word, os.path.basename(word))]
    elif glob.has_magic(word):
        found = _matches(word, leave_out)
    else:
        raise FileNotFoundError(f"no such file or folder: {word}")
    if not found:
        raise FileNotFoundError(
            f"no images found: {word} has no file that ends in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return found


def _images_in(folder: str, leave_out: Path | None) -> list[ImageSource]:
    if leave_out is not None and Path(folder).resolve().is_relative_to(leave_out):
        leave_out = None  # named on purpose
    names = [name for name in image_files(Path(folder)) if not _is_inside(os.path.join(folder, name), leave_out)]
    return [ImageSource(os.path.join(folder, name), name) for name in names]


def _matches(pattern: str, leave_out: Path | None) -> list[ImageSource]:
    """Images, and images in folders, that a pattern matches; named from the first folder with a wildcard on."""
    root = pattern[: min(pattern.index(sign) for sign in _WILDCARDS if sign in pattern)].rpartition("/")[0]
    start = root or ("/" if pattern.startswith("/") else ".")
    found = []
    for path in sorted(glob.glob(pattern, recursive=True)):
        inner = _images_in(path, leave_out) if os.path.isdir(path) else []
        if os.path.isfile(path) and Path(path).suffix.lower() in IMAGE_SUFFIXES and not _is_inside(path, leave_out):
            inner = [ImageSource(path, "")]
        found += [ImageSource(image.location, os.path.relpath(image.location, start)) for image in inner]
    return found


def _is_inside(path: str, folder: Path | None) -> bool:
    return folder is not None and Path(path).resolve().is_relative_to(folder)


def _name_of_url(url: str) -> str:
    path = urllib.parse.unquote(urllib.parse.urlsplit(url).path)
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2] or "image"
