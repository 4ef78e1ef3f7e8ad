"""Images with truth and perturbed predictions for the tests of the metrics: random ones and the bundled nuclei."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from packed_masks import pack_masks
from pycocotools import mask as coco_mask

from m2f.data.segment_map import SegmentMap

NUCLEI_VAL = Path(__file__).parents[2] / "examples" / "nuclei" / "val.json"


class Case(NamedTuple):
    """One image."""

    image_id: int
    masks: np.ndarray  # (N, H, W) bool, the truth
    predicted: np.ndarray  # (D, H, W) bool
    scores: np.ndarray  # (D,)

    def segment_map(self) -> SegmentMap:
        return pack_masks(self.masks, [0] * len(self.masks), self.masks.shape[1:])

    def painted(self) -> tuple[np.ndarray, list[dict]]:
        """The predictions as a map in which the best one lies on top: (H, W) ids from 1, and segments_info."""
        segmentation = np.zeros(self.masks.shape[1:], np.int32)
        for number in np.argsort(self.scores, kind="stable"):
            segmentation[self.predicted[number]] = number + 1
        shown = [number for number in np.unique(segmentation).tolist() if number]
        infos = [{"id": number, "label_id": 0, "score": float(self.scores[number - 1])} for number in shown]
        return segmentation, infos


def encode(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def perturbed_nuclei(annotation_file: Path = NUCLEI_VAL, seed: int = 0, shift: int = 3) -> Iterator[Case]:
    """Each image of a COCO json; the predictions are its objects moved by up to `shift` pixels, of which some are
    missing and some doubled."""
    generator = np.random.default_rng(seed)
    content = json.loads(annotation_file.read_text())
    for image in content["images"]:
        annotations = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
        masks = np.stack([coco_mask.decode(entry["segmentation"]) for entry in annotations]).astype(bool)
        copies = generator.choice(len(masks), len(masks))
        moves = generator.integers(-shift, shift + 1, (len(copies), 2))
        predicted = np.stack([np.roll(masks[i], move, (0, 1)) for i, move in zip(copies, moves, strict=True)])
        yield Case(image["id"], masks, predicted, generator.random(len(copies)))


def random_mask(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A rectangle, sometimes with a piece cut out."""
    mask = np.zeros((height, width), bool)
    for value in (True, False)[: generator.integers(1, 3)]:
        top, left = generator.integers(0, height), generator.integers(0, width)
        mask[top : top + generator.integers(1, height + 1), left : left + generator.integers(1, width + 1)] = value
    return mask


def random_partition(generator: np.random.Generator, height: int, width: int, segments: int) -> np.ndarray:
    """(H, W) indices in [0, segments), -1 or -2 in blocks, such as a data set's or a model's segments form."""
    indices = np.full((height, width), generator.integers(-2, 0))
    for index in generator.integers(-2, segments, 2 * segments + 1):
        indices[random_mask(generator, height, width)] = index
    return indices
