"""Mean and standard deviation of the channels of images that are not RGB, from the training images."""

from collections.abc import Callable
from typing import Any

import numpy as np

from m2f.data.segmentation_dataset import SampleSource
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.image_processing_m2f import M2FImageProcessor

_MOST_IMAGES = 500
_LEAST_STD = 1 / 255  # of a channel that is the same everywhere


def channel_fields(num_channels: int) -> dict[str, Any]:
    """Settings of a new image processor. Those of other than 3 channels are to be settled by `settle_statistics`."""
    unknown = {} if num_channels == USUAL_CHANNELS else {"image_mean": None, "image_std": None}
    return {"num_channels": num_channels, **unknown}


def settle_statistics(
    processor: M2FImageProcessor, dataset: SampleSource, skip_broken: bool, say: Callable[[str], None]
):
    """Measures what a processor has from `channel_fields` alone, and leaves others as they are.

    Args:
        dataset: of the training images, with the processor's white level and channels.
        skip_broken: leave out images that cannot be read.

    Raises:
        ValueError: an image cannot be read, or none can.
    """
    if processor.num_channels == USUAL_CHANNELS or processor.image_mean is not None:
        return
    mean, std, count = channel_statistics(dataset, skip_broken)
    scale = processor.rescale_factor if processor.do_rescale else 1
    processor.image_mean, processor.image_std = ([round(x * scale, 6) for x in values] for values in (mean, std))
    shown = "; ".join(f"{a:.3f} ({b:.3f})" for a, b in zip(processor.image_mean, processor.image_std, strict=True))
    say(f"mean (and standard deviation) of each channel, from {count} of {len(dataset)} training images: {shown}")


def channel_statistics(dataset: SampleSource, skip_broken: bool = False) -> tuple[list[float], list[float], int]:
    """Mean and standard deviation of each channel over all pixels, white at 255; and of how many images, which are
    spread over the dataset.

    Raises:
        ValueError: an image cannot be read, or none can.
    """
    count, pixels, sums, squares = 0, 0, np.float64(0), np.float64(0)
    for index in np.linspace(0, len(dataset) - 1, min(len(dataset), _MOST_IMAGES)).astype(int).tolist():
        try:
            values = np.asarray(dataset[index].image)
        except (OSError, ValueError) as error:
            if skip_broken:
                continue
            raise ValueError(f"image {dataset.name_of(index)} cannot be read: {error}") from error
        values = values.reshape(-1, values.shape[2]).astype(np.float64)
        count, pixels = count + 1, pixels + len(values)
        sums, squares = sums + values.sum(0), squares + (values**2).sum(0)
    if not count:
        raise ValueError(f"none of the {len(dataset)} training images can be read; `m2f check` lists why")
    mean = sums / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    return mean.tolist(), np.maximum(std, 255 * _LEAST_STD).tolist(), count
