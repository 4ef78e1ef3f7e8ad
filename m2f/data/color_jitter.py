"""The colour augmentation of SSD, as the original's recipes for Cityscapes, ADE20K and Mapillary Vistas use it."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from m2f.data.hsv_color import HUES, hsv_to_rgb, rgb_to_hsv
from m2f.data.segment_map import Sample
from m2f.image_processing.band_image import BandImage, PixelImage

_PIECE = 1 << 15  # pixels that stay in the processor's cache: twice as fast as 2^20 at once


@dataclass(frozen=True)
class SsdColorTransform:
    """Brightness, contrast, saturation and hue, each changed with a probability of 1/2; contrast comes last as often
    as it comes before saturation and hue.

    The values, their order and their rounding are those of detectron2's ColorAugSSDTransform, but saturation and hue
    share one way to HSV and back: it rounds once to RGB and to HSV in between, which changes a pixel by some units at
    most. Labels stay as they are.

    Images of other than 3 channels have no hue or saturation: of them brightness and contrast change alone, the same
    in all channels.
    Source: "SSD: Single Shot MultiBox Detector" (Liu et al., 2016), and the data layer of its implementation.

    Args:
        brightness: largest number added or subtracted, of 255.
        contrast: lowest and highest factor.
        saturation: lowest and highest factor of S.
        hue: largest turn, in steps of 2 degrees.

    Raises:
        ValueError: a negative number, a lowest factor above the highest, or a turn above half the circle.
    """

    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: int = 18

    def __post_init__(self):
        for name, (low, high) in (("contrast", self.contrast), ("saturation", self.saturation)):
            if not 0 <= low <= high:
                raise ValueError(f"{name} must be two factors, 0 <= lowest <= highest, got {low} and {high}")
        if self.brightness < 0 or not 0 <= self.hue <= HUES // 2:
            raise ValueError(
                f"brightness must not be negative and hue be in 0..{HUES // 2}, got {self.brightness} and {self.hue}"
            )

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        steps = [self._contrast, self._saturation_and_hue]
        if _coin(generator):
            steps.reverse()
        image = sample.image
        for step in (self._brightness, *steps):
            image = step(image, generator)
        return replace(sample, image=image)

    def _brightness(self, image: PixelImage, generator: np.random.Generator) -> PixelImage:
        if not _coin(generator):
            return image
        return scale_and_shift(image, 1.0, generator.uniform(-self.brightness, self.brightness))

    def _contrast(self, image: PixelImage, generator: np.random.Generator) -> PixelImage:
        if not _coin(generator):
            return image
        return scale_and_shift(image, generator.uniform(*self.contrast), 0.0)

    def _saturation_and_hue(self, image: PixelImage, generator: np.random.Generator) -> PixelImage:
        factor = generator.uniform(*self.saturation) if _coin(generator) else 1.0
        turn = int(generator.integers(-self.hue, self.hue, endpoint=True)) if _coin(generator) else 0
        if isinstance(image, BandImage) or (factor == 1 and turn == 0):
            return image
        return change_saturation_and_hue(image, factor, turn)


def _coin(generator: np.random.Generator) -> bool:
    return generator.random() < 0.5


def scale_and_shift(image: PixelImage, factor: float, shift: float) -> PixelImage:
    """Each value v of an 8-bit image becomes factor * v + shift, limited to 0..255, its fraction cut off."""
    if isinstance(image, BandImage):
        return image.scale_and_shift(factor, shift)
    values = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(shift)
    table = values.clip(0, 255).astype(np.uint8).tolist()
    return image.point(table * len(image.getbands()))


def change_saturation_and_hue(image: Image.Image, factor: float, turn: int) -> Image.Image:
    """An RGB image with its saturation times `factor`, limited to 255, and its hue turned by `turn` * 2 degrees."""
    rgb = np.stack([np.asarray(band) for band in image.split()]).reshape(3, -1)
    result = np.empty_like(rgb)
    for start in range(0, rgb.shape[1], _PIECE):
        hsv = rgb_to_hsv(rgb[:, start : start + _PIECE])
        hsv[0] += turn
        hsv[0] += HUES * ((hsv[0] < 0).astype(np.float32) - (hsv[0] >= HUES))
        hsv[1] = np.floor((hsv[1] * np.float32(factor)).clip(0, 255))
        result[:, start : start + _PIECE] = hsv_to_rgb(hsv)
    return Image.merge("RGB", [Image.fromarray(band.reshape(image.height, image.width)) for band in result])
