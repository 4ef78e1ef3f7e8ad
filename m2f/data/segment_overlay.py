"""Segments drawn over their image: a colour for each thing, one for each stuff class, and an outline around each."""

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from m2f.image_processing.band_image import PixelImage
from m2f.image_processing.label_values import IGNORED

# Turning the hue by the golden ratio keeps any number of successive colours apart.
_GOLDEN_RATIO = 0.6180339887498949
_TITLE_HEIGHT = 16
_HATCH_PERIOD = 6  # pixels
_HATCH_GREY = 128


def distinct_colours(count: int) -> np.ndarray:
    """(count, 3) uint8 RGB, bright, the same for each call."""
    colours = [
        colorsys.hsv_to_rgb(i * _GOLDEN_RATIO % 1, (1.0, 0.65)[i // 2 % 2], (1.0, 0.85)[i % 2]) for i in range(count)
    ]
    return np.rint(np.array(colours).reshape(-1, 3) * 255).astype(np.uint8)


def draw_masks(
    image: PixelImage, masks: np.ndarray, colours: np.ndarray | None = None, opacity: float = 0.45
) -> Image.Image:
    """The image with masks over it, the first on top: filled with `opacity` in [0, 1], outlined in full colour.

    Args:
        image: W x H, of any mode.
        masks: (N, H, W), nonzero inside; they may overlap.
        colours: (N, 3) uint8; distinct ones by default.

    Raises:
        ValueError: the masks are not of the image's size, or colours are not as many as masks.
    """
    masks = np.asarray(masks) != 0
    if masks.ndim != 3 or masks.shape[1:] != (image.height, image.width):
        raise ValueError(f"masks are {masks.shape}; (N, {image.height}, {image.width}), the image's size, is needed")
    colours = distinct_colours(len(masks)) if colours is None else colours
    if len(colours) != len(masks):
        raise ValueError(f"{len(colours)} colours for {len(masks)} masks; give one for each")
    pixels = np.array(image.convert("RGB"), dtype=np.float32)
    for mask, colour in zip(masks[::-1], colours[::-1], strict=True):
        pixels[mask] = (1 - opacity) * pixels[mask] + opacity * colour
        pixels[outline(mask)] = colour
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def draw_segments(
    image: PixelImage,
    segmentation: np.ndarray,
    segments_info: Sequence[Mapping],
    stuff_label_ids: Sequence[int] = (),
) -> Image.Image:
    """The image with the segments of one result of panoptic or instance post-processing over it.

    A thing gets a colour of its own; all segments of a stuff label get the label's colour, in every image the same.

    Args:
        image: W x H.
        segmentation: (H, W) ids.
        segments_info: dicts with "id" and "label_id"; ids that are not listed stay as they are.
    """
    segmentation = np.asarray(segmentation)
    masks = np.array([segmentation == info["id"] for info in segments_info]).reshape(-1, *segmentation.shape)
    stuff_colours = dict(zip(stuff_label_ids, distinct_colours(len(stuff_label_ids)), strict=True))
    # Things take the colours after those of stuff, so that none looks like a class.
    colours = distinct_colours(len(stuff_label_ids) + len(segments_info))[len(stuff_label_ids) :]
    for colour, info in zip(colours, segments_info, strict=True):
        colour[:] = stuff_colours.get(info["label_id"], colour)
    return draw_masks(image, masks, colours)


def draw_segment_map(image: PixelImage, ids: np.ndarray, colours: np.ndarray, opacity: float = 0.45) -> Image.Image:
    """The image with compact labels over it, the first layer on top; needs no mask per segment.

    Segments are filled with `opacity` in [0, 1] and outlined in full colour; ignored pixels are hatched in grey.

    Args:
        image: W x H, of any mode.
        ids: (G, H, W) as in `SegmentMap`.
        colours: (N, 3) uint8, of each segment.

    Raises:
        ValueError: the layers are not of the image's size.
    """
    if ids.ndim != 3 or ids.shape[1:] != (image.height, image.width):
        raise ValueError(f"layers are {ids.shape}; (G, {image.height}, {image.width}), the image's size, is needed")
    pixels = np.array(image.convert("RGB"), dtype=np.float32)
    for layer in ids[::-1]:
        inside = layer >= 0
        pixels[inside] = (1 - opacity) * pixels[inside] + opacity * colours[layer[inside]]
        rim = inside & _id_changes(layer)
        pixels[rim] = colours[layer[rim]]
    stripes = np.add.outer(*map(np.arange, ids.shape[1:])) % _HATCH_PERIOD < _HATCH_PERIOD // 2
    pixels[(ids == IGNORED).any(0) & stripes] = _HATCH_GREY
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def _id_changes(layer: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels with a neighbour above, below, left or right of another id."""
    changes = np.zeros(layer.shape, bool)
    below, right = layer[1:] != layer[:-1], layer[:, 1:] != layer[:, :-1]
    changes[1:] |= below
    changes[:-1] |= below
    changes[:, 1:] |= right
    changes[:, :-1] |= right
    return changes


def outline(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels of a bool mask with a neighbour above, below, left or right outside it."""
    padded = np.pad(mask, 1, mode="edge")  # the border of the image is no border of a segment
    surrounded = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~surrounded


def side_by_side(panels: Sequence[tuple[str, PixelImage]]) -> Image.Image:
    """One picture of (title, image) panels in a row, titles above."""
    width = sum(image.width for _, image in panels)
    height = max(image.height for _, image in panels)
    sheet = Image.new("RGB", (width, height + _TITLE_HEIGHT), "white")
    draw, font, left = ImageDraw.Draw(sheet), ImageFont.load_default(), 0
    for title, image in panels:
        draw.text((left + 3, 2), title, fill="black", font=font)
        sheet.paste(image.convert("RGB"), (left, _TITLE_HEIGHT))
        left += image.width
    return sheet
