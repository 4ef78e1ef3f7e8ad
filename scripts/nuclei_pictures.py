"""Pictures that show what was found in an image beside the truth."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from m2f.data.segment_overlay import draw_masks, side_by_side

_QUALITIES = (85, 70, 55, 40)  # of JPEG, tried in turn


def compared(image: Image.Image, truth: np.ndarray, found: np.ndarray) -> Image.Image:
    """The image, the truth and what was found in a row.

    Args:
        truth, found: (N, H, W) masks, nonzero inside.
    """
    image = ImageOps.autocontrast(image, cutoff=0.5)  # to see the nuclei; the model gets the plain image
    panels = [
        ("image", image),
        (f"ground truth: {len(truth)}", draw_masks(image, truth)),
        (f"predicted: {len(found)}", draw_masks(image, found)),
    ]
    return side_by_side(panels)


def save_within(picture: Image.Image, path: Path, limit: int):
    """Saves a JPEG of at most `limit` bytes: made smaller until it fits."""
    width = min(picture.width, 1200)
    while True:
        small = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
        for quality in _QUALITIES:
            file = io.BytesIO()
            small.save(file, "JPEG", quality=quality)
            if len(file.getvalue()) <= limit:
                path.write_bytes(file.getvalue())
                return
        width = width * 3 // 4
