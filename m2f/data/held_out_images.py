"""A dataset of one split, divided by image into one part to train on and one to evaluate on."""

import hashlib
import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m2f.data.segment_map import Sample
from m2f.data.segmentation_dataset import SegmentationDataset
from m2f.image_processing.white_level import WhiteLevel

_SHARED = ("category_ids", "label_values")  # what some readers tell of their classes besides
_HASHES = 1 << 64


class DatasetPart:
    """A `SegmentationDataset` of some images of another one, which it reads from.

    Args:
        indices: of the images in `dataset`.
        split: what the part is called.
    """

    def __init__(self, dataset: SegmentationDataset, indices: Sequence[int], split: str):
        self.dataset, self.indices, self.split = dataset, list(indices), split
        self.task, self.format = dataset.task, dataset.format

    @property
    def id2label(self) -> dict[int, str]:
        return self.dataset.id2label

    @property
    def thing_label_ids(self) -> list[int] | None:
        return self.dataset.thing_label_ids

    @property
    def white_level(self) -> WhiteLevel:
        return self.dataset.white_level

    @white_level.setter
    def white_level(self, value: WhiteLevel):
        self.dataset.white_level = value

    @property
    def num_channels(self) -> int:
        return self.dataset.num_channels

    @num_channels.setter
    def num_channels(self, value: int):
        self.dataset.num_channels = value

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]

    def name_of(self, index: int) -> str:
        return self.dataset.name_of(self.indices[index])

    def image_path(self, index: int) -> Path | None:
        return self.dataset.image_path(self.indices[index])

    def __getattr__(self, name: str) -> Any:
        if name not in _SHARED:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.dataset, name)


def hold_out(dataset: SegmentationDataset, fraction: float) -> tuple[DatasetPart, DatasetPart]:
    """The images to train on, and those that are held out.

    An image is held out if a hash of its name lies in the first part of all hashes: so it is always on the same side,
    whatever images come or go, and on the same one or on the held-out side for a larger fraction. The share that is
    held out is that fraction on the average.

    Args:
        fraction: above 0 and below 1.

    Raises:
        ValueError: another fraction, or one that leaves a part without an image.
    """
    if not 0 < fraction < 1:  # also NaN
        raise ValueError(f"validation_fraction is {fraction}; above 0 and below 1 is needed, such as 0.1")
    places = [_place(dataset.name_of(index)) for index in range(len(dataset))]
    held = [index for index, place in enumerate(places) if place < fraction]
    kept = [index for index, place in enumerate(places) if place >= fraction]
    if not held or not kept:
        all_of = "holds all of them out" if held else "holds none of them out"
        raise ValueError(
            f"validation_fraction {fraction} of the {len(dataset)} images of split {dataset.split!r} {all_of}: the "
            f"hashes of their names decide{_remedy(places)}"
        )
    return DatasetPart(dataset, kept, dataset.split), DatasetPart(dataset, held, f"{dataset.split}-held-out")


def _remedy(places: list[float]) -> str:
    """The fractions for which both parts have an image, with as few digits as tell them."""
    for digits in (2, 4, 8):
        scale = 10**digits
        low, high = (math.floor(place * scale) for place in (min(places, default=0), max(places, default=0)))
        if low < high:
            return f"; from {(low + 1) / scale:g} to {high / scale:g} leaves each part some"
    return "; two images of different names are needed"


def _place(name: str) -> float:
    """Of a name among the hashes of all, in [0, 1); accents count alike however they are written."""
    text = unicodedata.normalize("NFC", name.replace("\\", "/"))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / _HASHES
