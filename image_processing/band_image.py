"""Images of any number of channels, which Pillow does not have: what readers give for all numbers but 3."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

_SHOWN = 3  # channels of a picture


class BandImage:
    """An upright image with white at 255, and the methods of a PIL image that are needed here, by the same names.

    Args:
        pixels: (H,W,C) uint8, or float32 in 0..255 where eight bits cannot hold the values.
    """

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height

    @property
    def channels(self) -> int:
        return self.pixels.shape[2]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.pixels, dtype) if copy else np.asarray(self.pixels, dtype)

    def crop(self, box: tuple[int, int, int, int]) -> "BandImage":
        """The pixels in (left, top, right, bottom), which lies inside the image."""
        left, top, right, bottom = box
        return BandImage(self.pixels[top:bottom, left:right])

    def resize(
        self,
        size: tuple[int, int],
        resample: int = Image.Resampling.BICUBIC,
        box: tuple[float, float, float, float] | None = None,
    ) -> "BandImage":
        """At `size` (width, height), channel by channel by PIL, antialiased; of a `box` alone where one is given."""
        planes = [
            Image.fromarray(np.ascontiguousarray(self.pixels[:, :, channel])) for channel in range(self.channels)
        ]
        filter = Image.Resampling(resample)
        return BandImage(np.stack([np.asarray(plane.resize(size, filter, box)) for plane in planes], axis=2))

    def transpose(self, method: Image.Transpose) -> "BandImage":
        """Mirrored or turned."""
        return BandImage(_TRANSPOSED[method](self.pixels))

    def scale_and_shift(self, factor: float, shift: float) -> "BandImage":
        """Each value v becomes factor * v + shift, limited to 0..255; of 8 bits its fraction is cut off."""
        values = self.pixels.astype(np.float32) * np.float32(factor) + np.float32(shift)
        return BandImage(values.clip(0, 255).astype(self.pixels.dtype))

    def convert(self, mode: str = "RGB", bands: Sequence[int] | None = None) -> Image.Image:
        """A picture of some channels.

        Args:
            mode: "RGB", the one that there is.
            bands: numbers from 0 of the channels that are shown as red, green and blue, or of one that is shown as
                grey; by default the first three, or the first one where there are less than three.
        """
        assert mode == "RGB"
        chosen = self.pixels[:, :, list(shown_bands(self.channels) if bands is None else bands)]
        chosen = np.rint(np.clip(chosen, 0, 255)).astype(np.uint8)
        return Image.fromarray(np.repeat(chosen, _SHOWN, axis=2) if chosen.shape[2] == 1 else chosen)


# What a sample has as its image: of PIL with 3 channels, else a `BandImage`.
PixelImage = Image.Image | BandImage

_TRANSPOSED = {
    Image.Transpose.FLIP_LEFT_RIGHT: lambda a: a[:, ::-1],
    Image.Transpose.FLIP_TOP_BOTTOM: lambda a: a[::-1],
    Image.Transpose.ROTATE_90: lambda a: np.rot90(a, 1),
    Image.Transpose.ROTATE_180: lambda a: a[::-1, ::-1],
    Image.Transpose.ROTATE_270: lambda a: np.rot90(a, -1),
    Image.Transpose.TRANSPOSE: lambda a: a.swapaxes(0, 1),
    Image.Transpose.TRANSVERSE: lambda a: a[::-1, ::-1].swapaxes(0, 1),
}


def shown_bands(channels: int) -> tuple[int, ...]:
    """The channels, from 0, that pictures of an image show unless told otherwise."""
    return tuple(range(_SHOWN)) if channels >= _SHOWN else (0,)


def check_bands(bands: Sequence[int] | None, channels: int) -> tuple[int, ...]:
    """The channels, from 0, that pictures show.

    Args:
        bands: numbers from 1, one or three; None for the usual ones.

    Raises:
        ValueError: another number of them, or one that the images do not have.
    """
    if bands is None:
        return shown_bands(channels)
    if len(bands) not in (1, _SHOWN) or not all(1 <= band <= channels for band in bands):
        raise ValueError(
            f"bands {','.join(map(str, bands))} cannot be shown; give one or three numbers of 1 to {channels}, the "
            "channels that the model takes"
        )
    return tuple(band - 1 for band in bands)


def picture_of(image: PixelImage, bands: Sequence[int] | None = None) -> Image.Image:
    """The image as RGB, of 8 bits: one of PIL's with 3 channels as it is, unless other `bands` (from 0) are named."""
    if isinstance(image, BandImage):
        return image.convert("RGB", bands)
    if bands is None or tuple(bands) == shown_bands(_SHOWN):
        return image
    return BandImage(np.asarray(image.convert("RGB"))).convert("RGB", bands)
