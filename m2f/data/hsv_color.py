"""RGB to HSV and back with the values of OpenCV's 8-bit images: H in [0, 180) (2 degrees each), S and V in [0, 255].

Whole numbers are held as float32, where NumPy is fastest: every product here is below 2^24, and so exact.
Source: OpenCV's documentation of color conversions (RGB <-> HSV, 8-bit images); its tables of reciprocals in fixed
point are rounded as there, because they decide what half an S or H is rounded to.
"""

import numpy as np

HUES = 180
_ONE = np.float32(1 << 12)  # of the fixed point


def rgb_to_hsv(rgb: np.ndarray) -> np.ndarray:
    """(3, n) uint8 -> (3, n) float32, equal to OpenCV's for each of the 2^24 colours; the hue of gray is 0."""
    red, green, blue = rgb.astype(np.float32)
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    # In sixths of the circle times chroma: red is at 0, green at 2, blue at 4.
    sixths = np.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    sixths = np.where(value == red, green - blue, sixths)
    hue = _divide(sixths, chroma, HUES / 6)
    hue += HUES * (hue < 0)
    return np.stack([hue, _divide(chroma, value, 255), value])


def hsv_to_rgb(hsv: np.ndarray) -> np.ndarray:
    """(3, n) whole numbers -> (3, n) uint8, equal to OpenCV's up to 1 where a value is within the rounding of float32.

    Fractions are cut off, as by OpenCV's vector code, which takes all but the last few pixels of an image.
    """
    hue, saturation, value = hsv
    sixths = hue * np.float32(6 / HUES)
    # How far the colour takes red, green and blue from the smallest value to the largest: 1 around the hue of each.
    shares = (np.abs(sixths - 3) - 1, 2 - np.abs(sixths - 2), 2 - np.abs(sixths - 4))
    chroma = value * saturation * np.float32(1 / 255)
    return np.stack([(value - chroma * (1 - share.clip(0, 1))).astype(np.uint8) for share in shares])


def _divide(numerator: np.ndarray, denominator: np.ndarray, scale: float) -> np.ndarray:
    """scale * numerator / denominator, rounded half up after a reciprocal of 12 bits behind the point; 0 / 0 = 0."""
    reciprocal = np.rint(_ONE * np.float32(scale) / np.maximum(denominator, 1))
    return np.floor((numerator * reciprocal + _ONE / 2) / _ONE)
