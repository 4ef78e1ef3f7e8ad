"""Objects of an image in four tiles, and what a perfect model finds of them in each."""

import numpy as np
import torch

from m2f.inference.detection import Box, Detection, detections_from_masks
from m2f.inference.tile_grid import tile_boxes
from m2f.inference.tiled_instances import merge_detections

SIZE = (200, 200)
TILES = tile_boxes(SIZE, 120, 40)  # starts 0 and 80: rows and columns 80 to 119 are common


def rectangle(top, left, bottom, right) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def detection(mask: np.ndarray, label: int = 0, score: float = 0.5) -> Detection:
    return detections_from_masks(torch.from_numpy(mask[None]), [{"label_id": label, "score": score}])[0]


def seen_in(tile: Box, mask: np.ndarray, label: int = 0, score: float = 0.5) -> list[Detection]:
    """What a perfect model finds of an object."""
    part = np.zeros(SIZE, bool)
    part[tile.slices] = mask[tile.slices]
    return [detection(part, label, score)] if part.any() else []


def merged(*objects: tuple[np.ndarray, int, float]) -> list[Detection]:
    found = [[part for thing in objects for part in seen_in(tile, *thing)] for tile in TILES]
    return merge_detections(TILES, found, SIZE)


def full(found: Detection) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[found.box.slices] = found.pixels
    return mask


def assert_same(results: list[Detection], masks: list[np.ndarray]):
    """In any order."""
    got = sorted(np.packbits(full(result)).tobytes() for result in results)
    assert got == sorted(np.packbits(mask).tobytes() for mask in masks)
