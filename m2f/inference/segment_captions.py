"""Label and score of segments, written on a picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LEAST_FONT, _MOST_FONT = 10, 28  # pixels
_FONT_SHARE = 1 / 50  # of the picture's longer edge
_PADDING = 2
_BRIGHT = 128  # luma from which black is easier to read than white
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def draw_captions(picture: Image.Image, segments: Sequence[Any], colours: np.ndarray, everywhere: bool = False):
    """Write "label score" at the upper left of each segment's box, the best scores last and so on top.

    Args:
        picture: of the image's size, changed in place.
        segments: with `label`, `score`, `box` and `is_thing`.
        colours: (N, 3) uint8, of the segments.
        everywhere: also where the box is smaller than the text.
    """
    draw = ImageDraw.Draw(picture)
    font_size = round(min(max(max(picture.size) * _FONT_SHARE, _LEAST_FONT), _MOST_FONT))
    font = ImageFont.load_default(font_size)
    order = sorted(range(len(segments)), key=lambda index: segments[index].score)
    for index in order:
        segment = segments[index]
        text = f"{_one_line(segment.label)} {segment.score:.2f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        width, height = right - left + 2 * _PADDING, bottom - top + 2 * _PADDING
        if not everywhere and (segment.box.width < width or segment.box.height < height):
            continue
        # Inside the picture, where it is large enough.
        x = max(0, min(segment.box.left, picture.width - width))
        y = max(0, min(segment.box.top, picture.height - height))
        colour = colours[index]
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=tuple(colour.tolist()))
        ink = "black" if colour @ _LUMA >= _BRIGHT else "white"
        draw.text((x + _PADDING - left, y + _PADDING - top), text, fill=ink, font=font)


def _one_line(text: str) -> str:
    return " ".join(text.split())
