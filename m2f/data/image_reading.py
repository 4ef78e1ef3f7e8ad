"""Images on disk or in memory as upright samples. Every error names the image."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from transformers.utils import logging

from m2f.data.segment_map import Sample, SegmentMap
from m2f.image_processing.band_files import read_bands
from m2f.image_processing.band_image import BandImage, PixelImage
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.deep_channels import has_deep_channels, upright_pixels
from m2f.image_processing.image_loading import SEVERAL_PAGES, LoadedImage, exact_channels, rgb_with_guess
from m2f.image_processing.image_opening import (
    decoded,
    file_content,
    open_image,
    orientation,
    page_count,
    reopened,
)
from m2f.image_processing.white_level import WhiteLevel

logger = logging.get_logger(__name__)

# EXIF orientation -> what brings an array (..., H, W) upright, for those that exchange height and width.
_ARRAY_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
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
        num_channels: that the sample will have, see `m2f.image_processing.band_files` and `exact_channels`; with 3,
            grey becomes RGB, and alpha is dropped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no image of a known format, or one that is too large for Pillow's limit.
    """

    def __init__(
        self, source: Path | bytes, name: str, white_level: WhiteLevel = None, num_channels: int = USUAL_CHANNELS
    ):
        self.name, self.white_level, self.num_channels = name, white_level, num_channels
        content = file_content(source, name)
        self._pages, self._orientation = 1, 1
        self._bands = read_bands(content, name, num_channels)
        if self._bands is not None:
            self.size = self.stored_size = self._bands.shape[:2]
            return
        self._image = open_image(content, name)
        self._pages = page_count(self._image)
        self._orientation = decoded(self._stored_orientation, name)
        self.stored_size = (self._image.height, self._image.width)
        self.size = self.stored_size[::-1] if self._orientation in _ARRAY_TURNS else self.stored_size

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
            ids = np.ascontiguousarray(_ARRAY_TURNS[self._orientation](segments.ids))
            segments = SegmentMap(ids, segments.class_ids)
        image, guess = self.upright()
        if self._pages > 1:
            logger.warning_once(SEVERAL_PAGES)
        return Sample(image, segments, name, guess, self._pages)

    def upright(self) -> tuple[PixelImage, str]:
        """The upright image, and what had to be guessed for it; "" if nothing was. An image of 3 channels has 8 bits;
        of others those of more than 8 bits keep them, as floats in 0..255.

        Raises:
            ValueError: the pixels cannot be decoded, have other channels, or are floats outside 0..255.
        """
        pixels: LoadedImage = self._bands if self._bands is not None else decoded(self._upright_pixels, self.name)
        if self.num_channels != USUAL_CHANNELS:
            pixels = exact_channels(pixels, self.name, self.num_channels)
        image, guess = decoded(lambda: self._levelled(pixels), self.name)
        if guess:
            logger.warning_once(guess)
        return image, guess

    def _stored_orientation(self) -> int:
        # Of a copy, because the search in a PNG may decode it, and deep channels are read from what is not decoded.
        return orientation(reopened(self._image) if has_deep_channels(self._image) else self._image)

    def _upright_pixels(self) -> Image.Image | np.ndarray:
        return upright_pixels(self._image, keep_alpha=self.num_channels != USUAL_CHANNELS)

    def _levelled(self, pixels: LoadedImage) -> tuple[PixelImage, str]:
        rgb, guess = rgb_with_guess(pixels, self.white_level, num_channels=self.num_channels)
        if isinstance(rgb, Image.Image):
            return rgb, guess
        values = np.asarray(rgb)
        if values.min() < 0 or values.max() > 255:  # floats, whose range nothing tells
            raise ValueError(
                f"values reach from {values.min()} to {values.max()}; 0 to 255 is needed; say which value is white "
                "with white_level (--white-level), a number or 'data'"
            )
        if self.num_channels != USUAL_CHANNELS:
            return BandImage(values), guess
        return Image.fromarray(np.rint(values).astype(np.uint8)), guess
