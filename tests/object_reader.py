"""Scenes of rectangles whose colours say what they are, and a model that reads them: the right answer is known."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers.modeling_outputs import ModelOutput

from m2f.image_processing.image_processing_m2f import M2FImageProcessor

NAMES = ("cell", "<b>vessel</b>", "sky", "sea")  # the second would be markup, if it were not escaped
THINGS = [0, 1]
_CLASS_STEP = 40  # of the green channel


class Thing(NamedTuple):
    """A rectangle; edges on multiples of 4, the model's cells.

    code: 1 to 255, red: which object it is, of several of a class. score: in (0, 1), blue.
    """

    code: int
    label_id: int
    score: float
    top: int
    left: int
    bottom: int
    right: int

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        mask = np.zeros(size, bool)
        mask[self.top : self.bottom, self.left : self.right] = True
        return mask


def draw(size: tuple[int, int], things: list[Thing]) -> Image.Image:
    """The scene; later things lie on earlier ones."""
    pixels = np.zeros((*size, 3), np.uint8)
    for thing in things:
        pixels[thing.mask(size)] = thing.code, thing.label_id * _CLASS_STEP, round(thing.score * 255)
    return Image.fromarray(pixels)


def polygon_area(points) -> float:
    """Of x0, y0, x1, y1, ..."""
    x, y = np.reshape(points, (-1, 2)).T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


class ObjectReader(nn.Module):
    """A query for each object that is visible in the input. Keeps the shapes of its batches."""

    def __init__(self, processor: M2FImageProcessor):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.processor = processor
        self.config = SimpleNamespace(id2label=dict(enumerate(NAMES)))
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, pixel_values, pixel_mask):
        self.shapes.append(tuple(pixel_values.shape))
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (self.processor.image_mean, self.processor.image_std))
        pixels = ((pixel_values * std + mean) * 255 * pixel_mask[:, None]).round()[:, :, 2::4, 2::4]
        codes = [image[0].unique().tolist() for image in pixels]
        queries = max(len(image_codes) for image_codes in codes)
        classes = torch.full((len(pixels), queries, len(NAMES) + 1), -20.0)
        classes[..., -1] = 0.0
        masks = torch.full((len(pixels), queries, *pixels.shape[2:]), -9.0)
        for image, (_, green, blue), image_codes, logits, mask in zip(
            pixels[:, 0], pixels, codes, classes, masks, strict=True
        ):
            for query, code in enumerate(image_codes):
                inside = image == code
                if code:
                    label = round(float(green[inside].median()) / _CLASS_STEP)
                    logits[query, label] = torch.logit(blue[inside].median() / 255)
                    mask[query][inside] = 9.0
        sizes = torch.stack([pixel_mask[:, :, 0].sum(1), pixel_mask[:, 0].sum(1)], 1)
        return ModelOutput(class_queries_logits=classes, masks_queries_logits=masks, valid_sizes=sizes)


def object_reader(task: str = "instance") -> ObjectReader:
    """With a processor that leaves images as large as they are."""
    things = THINGS if task == "panoptic" else None
    return ObjectReader(
        M2FImageProcessor(task=task, thing_label_ids=things, do_resize=False, panoptic_threshold=0.5)
    ).eval()
