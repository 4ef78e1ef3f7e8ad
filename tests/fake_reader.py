"""A dataset in memory with the interface of the readers."""

from pathlib import Path

import numpy as np
from PIL import Image

from m2f.data.segment_map import Sample, SegmentMap

SIZE = (6, 8)  # height, width


class FakeReader:
    """Gives the samples, and raises those that are exceptions."""

    format, task = "fake", "instance"

    def __init__(self, samples, id2label=None, split="train", thing_label_ids=None, paths=None):
        self.samples = list(samples)
        self.id2label = {0: "cat", 1: "dog"} if id2label is None else id2label
        self.split, self.thing_label_ids = split, thing_label_ids
        self.paths: list[Path | None] = paths or [None] * len(self.samples)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        if isinstance(self.samples[index], Exception):
            raise self.samples[index]
        return self.samples[index]

    def name_of(self, index):
        sample = self.samples[index]
        return sample.name if isinstance(sample, Sample) else f"{index}.png"

    def image_path(self, index):
        return self.paths[index]


def sample(name, layers, class_ids, seed=None):
    """A sample of random pixels, of its name's own by default.

    Args:
        layers: per layer {value: (rows, columns) slices}; the rest is -1.
    """
    pixels = np.random.default_rng(sum(name.encode()) if seed is None else seed).integers(0, 256, (*SIZE, 3), np.uint8)
    ids = np.full((len(layers), *SIZE), -1, np.int32)
    for layer, regions in zip(ids, layers, strict=True):
        for value, region in regions.items():
            layer[region] = value
    return Sample(Image.fromarray(pixels), SegmentMap(ids, np.array(class_ids, np.int64)), name)


LEFT, RIGHT, ALL = np.s_[:, :4], np.s_[:, 4:], np.s_[:, :]  # halves of 24 pixels


def good(name, seed=None):
    """A cat on the left, a dog on the right."""
    return sample(name, [{0: LEFT, 1: RIGHT}], [0, 1], seed)
