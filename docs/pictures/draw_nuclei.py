"""Draws the picture in the README, an image of examples/nuclei and what the bundled checkpoint finds in it:

    python docs/pictures/draw_nuclei.py

It is written beside this file.
"""

from pathlib import Path

from PIL import Image, ImageOps

from m2f import Segmenter
from m2f.data.dataset_formats import open_dataset
from m2f.data.segment_overlay import draw_segment_map

ROOT = Path(__file__).resolve().parents[2]
PICTURE = Path(__file__).with_name("nuclei.png")
COLOURS = 192  # of the PNG's palette, which makes it small


def draw(checkpoint: str | None = None) -> Image.Image:
    """The first validation image, brighter than it is, and the same with each object in a colour of its own."""
    path = open_dataset(ROOT / "examples" / "nuclei", "val").image_path(0)
    result = Segmenter.from_pretrained(checkpoint)(path)
    bright = ImageOps.autocontrast(result.image, cutoff=0.5)  # to see the nuclei; the model gets the plain image
    picture = Image.new("RGB", (2 * bright.width, bright.height))
    picture.paste(bright, (0, 0))
    picture.paste(draw_segment_map(bright, result.id_map[None] - 1, result.colours()), (bright.width, 0))
    return picture


if __name__ == "__main__":
    draw().quantize(COLOURS, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size // 1000} kB")
