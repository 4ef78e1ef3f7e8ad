"""Samples whose labels have everything that labels may have, made from a seed."""

import numpy as np
from packed_masks import pack_masks
from PIL import Image

from m2f.data.segment_map import Sample, SegmentMap


def make_sample(height: int = 24, width: int = 37, count: int = 6, seed: int = 0, name: str = "made.png") -> Sample:
    """Up to `count` overlapping rectangles, an ignored corner and pixels of nothing over an image of noise.

    The class of a segment is one of 0..count - 1 that no other has, so that it still tells which segment it was after
    the segments were numbered anew.
    """
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, height, width), np.uint8)
    for mask in masks:
        top, left = generator.integers(height), generator.integers(width)
        mask[top : top + generator.integers(1, height + 1), left : left + generator.integers(1, width + 1)] = 1
    ignored = np.zeros((height, width), bool)
    ignored[: height // 5, : width // 5] = True
    masks[:, ignored] = 0
    pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
    seen = masks.any((1, 2))
    segments = pack_masks(masks[seen], generator.permutation(count)[seen], (height, width), ignored)
    return Sample(Image.fromarray(pixels), segments, name)


def single_segments(sample: Sample) -> dict[int, Sample]:
    """Each segment alone on the sample's image: class -> sample of one layer that holds 0, NOTHING and IGNORED."""
    segments, layers = sample.segments, sample.segments.layers()
    singles = {}
    for number, (class_id, layer) in enumerate(zip(segments.class_ids, layers, strict=True)):
        ids = np.full((1, *segments.size), -1, np.int32)
        ids[0][segments.ids[layer] == number] = 0
        ids[0][segments.ignored()] = -2
        alone = SegmentMap(ids, segments.class_ids[number : number + 1])
        singles[int(class_id)] = Sample(sample.image, alone, sample.name)
    return singles


def assert_consistent(sample: Sample):
    """What `SegmentMap` and `Sample` promise, and that no segment is without a pixel."""
    segments = sample.segments
    assert segments.size == (sample.image.height, sample.image.width)
    assert segments.ids.dtype == np.int32 and segments.ids.flags["C_CONTIGUOUS"] and len(segments.ids) >= 1
    assert segments.class_ids.dtype == np.int64
    on_layers = [set(np.unique(layer[layer >= 0]).tolist()) for layer in segments.ids]
    assert sorted(number for numbers in on_layers for number in numbers) == list(range(len(segments.class_ids)))
    assert segments.ids.min() >= -2
