"""The batches of an evaluation: which images come together, on which process, and in which views."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers.utils import logging

from m2f.data.loader_workers import leave_signals_to_the_main_process
from m2f.data.segment_map import Sample
from m2f.data.segmentation_dataset import SegmentationDataset
from m2f.image_processing.band_files import band_file_size
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.image_opening import decoded, open_image, upright_size
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.resize_rule import resized_size
from m2f.output.safe_text import terminal_text

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class TestTimeView:
    """How a model gets to see an image, in test-time augmentation in several ways."""

    __test__: ClassVar[bool] = False  # pytest takes a name that begins with Test for tests

    scale: float = 1.0  # of the size that the processor's settings say
    flipped: bool = False  # left and right exchanged


ONE_VIEW = (TestTimeView(),)


class EvaluationBatch(NamedTuple):
    """Some images."""

    views: list[dict[str, Tensor]]  # the model's inputs, of all images, for each view
    indices: list[int | None]  # in the dataset; None: an image that only fills up, and does not count
    samples: list[Sample]


def evaluation_loader(
    dataset: SegmentationDataset,
    processor: M2FImageProcessor,
    batches: Sequence[list[tuple[int, bool]]],
    workers: int = 0,
    skip_broken: bool = False,
    views: Sequence[TestTimeView] = ONE_VIEW,
) -> DataLoader:
    """Gives an `EvaluationBatch` for each of `batches`, which `shard_batches` makes.

    Args:
        skip_broken: leave out images that cannot be read, with a warning for each; otherwise they raise ValueError.
        views: none for samples alone, without inputs.
    """
    return DataLoader(
        _Items(dataset, skip_broken),
        batch_sampler=batches,
        collate_fn=_Collate(processor, views),
        num_workers=workers,
        worker_init_fn=leave_signals_to_the_main_process,
        # A generator of its own, because a loader draws from the global one, and training goes on afterwards.
        generator=torch.Generator(),
    )


def batches_in_order(count: int, batch_size: int) -> list[list[int]]:
    """The images 0 to count-1, `batch_size` at a time."""
    return [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]


def batches_by_shape(sizes: Sequence[tuple[int, int] | None], batch_size: int) -> list[list[int]]:
    """Batches of images of similar shape, so that little is padding, the largest first, so that a memory that is too
    small shows at once.

    A batch has at most `batch_size` images, and no more pixels, padding included, than so many images of median size.

    Args:
        sizes: (height, width) of each image as the model gets it; None where it is not known. Such images come last,
            in their order.
    """
    known = [size for size in sizes if size is not None]
    budget = batch_size * median(height * width for height, width in known) if known else 0
    batches: list[list[int]] = []
    order = sorted(range(len(sizes)), key=lambda i: sizes[i] or (0, 0), reverse=True)  # stable, reversed too
    for index in order:
        if not batches or not _fits([*batches[-1], index], sizes, batch_size, budget):
            batches.append([])
        batches[-1].append(index)
    return sorted(batches, key=lambda batch: _padded_pixels(batch, sizes), reverse=True)


def batches_of_one_size(
    sizes: Sequence[tuple[int, int] | None], most: Callable[[tuple[int, int]], int]
) -> list[list[int]]:
    """Batches in which no image is padded for another's sake, the largest first.

    Args:
        sizes: as for `batches_by_shape`; images of unknown size come alone, and last.
        most: images of a size that come together.
    """
    of_size: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        if size is not None:
            of_size.setdefault(size, []).append(index)
    batches = [
        of_size[size][first : first + most(size)]
        for size in sorted(of_size, reverse=True)
        for first in range(0, len(of_size[size]), most(size))
    ]
    batches.sort(key=lambda batch: _padded_pixels(batch, sizes), reverse=True)
    return batches + [[index] for index, size in enumerate(sizes) if size is None]


def processed_sizes(dataset: SegmentationDataset, processor: M2FImageProcessor) -> list[tuple[int, int] | None]:
    """(height, width) of each image after the processor's resize step; None where its file does not tell: it is
    broken, or the image is not in a file of its own. No image is decoded."""
    return [
        size if size is None or not processor.do_resize else resized_size(size, dict(processor.size))
        for size in (_image_size(dataset, index) for index in range(len(dataset)))
    ]


def shard_batches(batches: Sequence[list[int]], processes: int, rank: int) -> list[list[tuple[int, bool]]]:
    """The batches of one process: per image its index, and whether it counts.

    All processes get equally many batches, because sharded models (FSDP2) compute together; where a process has no
    batch left, an image of the last one fills in and does not count.
    """
    share = [[(index, True) for index in batch] for batch in batches[rank::processes]]
    is_short = len(share) < -(-len(batches) // processes)
    return [*share, [(batches[-1][-1], False)]] if is_short else share


def _fits(batch: list[int], sizes: Sequence[tuple[int, int] | None], batch_size: int, budget: float) -> bool:
    is_mixed = len({sizes[index] is None for index in batch}) > 1
    return len(batch) <= batch_size and _padded_pixels(batch, sizes) <= budget and not is_mixed


def _padded_pixels(batch: list[int], sizes: Sequence[tuple[int, int] | None]) -> int:
    heights, widths = zip(*(sizes[index] or (0, 0) for index in batch), strict=True)
    return len(batch) * max(heights) * max(widths)


def _image_size(dataset: SegmentationDataset, index: int) -> tuple[int, int] | None:
    entry = getattr(dataset, "images", None)
    if entry is not None:  # a COCO json knows
        return entry[index].height, entry[index].width
    path = dataset.image_path(index)
    if path is None:
        return None
    try:
        with open_image(path, str(path)) as image:
            return decoded(lambda: upright_size(image), str(path))
    except ValueError:
        return band_file_size(path, getattr(dataset, "num_channels", USUAL_CHANNELS))


class _Items(Dataset):
    """(index, sample) of each image; index None where it does not count."""

    def __init__(self, dataset: SegmentationDataset, skip_broken: bool):
        self.dataset = dataset
        self.skip_broken = skip_broken

    def __getitem__(self, entry: tuple[int, bool]) -> tuple[int | None, Sample]:
        index, counts = entry
        for shift in range(len(self.dataset)):
            other = (index + shift) % len(self.dataset)
            try:
                return (index if counts and not shift else None), self.dataset[other]
            except (OSError, ValueError) as error:
                name = self.dataset.image_path(other) or self.dataset.name_of(other)
                if not self.skip_broken:
                    raise ValueError(f"image {name} of the evaluation cannot be read: {error}") from error
                if not shift:
                    logger.warning(
                        terminal_text(f"Image {name} cannot be read and is left out of the evaluation: {error}")
                    )
        raise ValueError(f"none of the {len(self.dataset)} images of the evaluation can be read")


class _Collate:
    def __init__(self, processor: M2FImageProcessor, views: Sequence[TestTimeView]):
        self.processor = processor
        self.views = views

    def __call__(self, items: Sequence[tuple[int | None, Sample]]) -> EvaluationBatch:
        indices, samples = zip(*items, strict=True)
        return EvaluationBatch([self._inputs(view, samples) for view in self.views], list(indices), list(samples))

    def _inputs(self, view: TestTimeView, samples: Sequence[Sample]) -> dict[str, Tensor]:
        # Before the padding, which is always at the right and at the bottom.
        images = [sample.image for sample in samples]
        if view.flipped:
            images = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
        size = {} if view.scale == 1 else {"size": scaled_size(dict(self.processor.size), view.scale)}
        return dict(self.processor(images, return_tensors="pt", **size))


def scaled_size(size: dict[str, int], scale: float) -> dict[str, int]:
    """Every edge of a processor's `size` times `scale`, rounded, at least 1 pixel."""
    return {edge: max(1, round(length * scale)) for edge, length in size.items() if length is not None}
