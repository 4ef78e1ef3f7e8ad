"""What a dataset has, in words: to see at a glance whether it was understood."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from m2f.data.segment_map import Sample
from m2f.data.segmentation_dataset import SegmentationDataset
from m2f.output.safe_text import terminal_text

_SHOWN_CLASSES = 200


def describe(dataset: SegmentationDataset, limit: int | None = None) -> str:
    """Lines about the dataset: images and their sizes, segments per image, ignored share, and how often each class is
    there. Reads every image.

    Args:
        limit: reads this many images instead, spread over the dataset.

    Raises:
        ValueError: a limit below 1, or (with FileNotFoundError) an image or labels that cannot be read.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 or None, got {limit}")
    indices = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), limit or len(dataset))).astype(int))
    read = f" ({len(indices)} of them read)" if len(indices) < len(dataset) else ""
    head = f"{dataset.format}, split {dataset.split!r}, {dataset.task} labels: {len(dataset)} images{read}"
    return "\n".join(map(terminal_text, [head, *_findings(dataset, indices.tolist())]))


def _findings(dataset: SegmentationDataset, indices: list[int]) -> Iterator[str]:
    counts, sizes, ignored = [], [], 0
    segments: Counter[int] = Counter()
    images: Counter[int] = Counter()
    for index in indices:
        sample = dataset[index]
        labels = sample.segments.class_ids[sample.segments.areas() > 0].tolist()
        counts.append(len(labels))
        sizes.append(sample.segments.size)
        ignored += _ignored_pixels(sample)
        segments.update(labels)
        images.update(set(labels))
    if indices:
        pixels = sum(height * width for height, width in sizes)
        (low_h, low_w), (high_h, high_w) = (edge(sizes, key=np.prod) for edge in (min, max))
        yield f"  sizes     {low_h} x {low_w} to {high_h} x {high_w} (height x width)"
        middle = f"{np.median(counts):g}"
        yield f"  segments  {sum(counts)}; in an image at least {min(counts)}, median {middle}, at most {max(counts)}"
        yield f"  ignored   {ignored / pixels:.2%} of the pixels"
    yield from _class_lines(dataset, segments, images)


def _ignored_pixels(sample: Sample) -> int:
    return int(sample.segments.ignored().sum())


def _class_lines(dataset: SegmentationDataset, segments: Counter, images: Counter) -> Iterator[str]:
    things = dataset.thing_label_ids
    number = len(dataset.id2label) if things is None else len(things)
    yield f"  classes   {len(dataset.id2label)}, of which {number} things; segments, images with one, name:"
    for label, name in list(dataset.id2label.items())[:_SHOWN_CLASSES]:
        yield f"    {label:4d} {segments[label]:8d} {images[label]:8d}  {name}"
    if len(dataset.id2label) > _SHOWN_CLASSES:
        yield f"    and {len(dataset.id2label) - _SHOWN_CLASSES} more"
