"""What rescaling, normalising and padding can be told."""

import reprlib
from collections.abc import Sequence
from typing import Any

from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.setting_types import is_finite


def check_pixel_settings(
    do_rescale: bool | None,
    rescale_factor: float | None,
    do_normalize: bool | None,
    image_mean: float | Sequence[float] | None,
    image_std: float | Sequence[float] | None,
    size_divisor: int | None,
    num_channels: int = USUAL_CHANNELS,
) -> None:
    """Raise ValueError unless the numbers that are read can be worked with; a step that is off reads none of them, and
    those that are None are the base class's business."""
    if do_rescale and rescale_factor is not None and not (is_finite(rescale_factor) and rescale_factor > 0):
        raise ValueError(
            f"rescale_factor must be a positive number, got {reprlib.repr(rescale_factor)}; 1/255 makes 0..255 0..1"
        )
    if do_normalize:
        _check_channels("image_mean", image_mean, num_channels)
        if any(value <= 0 for value in _check_channels("image_std", image_std, num_channels)):
            raise ValueError(
                f"image_std must be positive, because pixels are divided by it; got {reprlib.repr(image_std)}"
            )
    if size_divisor is not None and (size_divisor != int(size_divisor) or size_divisor < 0):
        raise ValueError(f"size_divisor must be a whole number, 1 or 0 for any size, got {size_divisor!r}")


def _check_channels(name: str, values: Any, num_channels: int) -> Sequence[float]:
    """One number, or one for each channel."""
    if values is None:
        return ()
    values = tuple(values) if isinstance(values, Sequence | set) or hasattr(values, "__len__") else (values,)
    if len(values) not in (1, num_channels):
        reason = "the processor makes RGB of all" if num_channels == USUAL_CHANNELS else "num_channels"
        raise ValueError(
            f"{name} has {len(values)} values, but the images have {num_channels} channels ({reason}); give "
            f"{num_channels} number{'s, or one for all' if num_channels > 1 else ''}"
        )
    if not all(is_finite(value) for value in values):
        raise ValueError(f"{name} must hold finite numbers, got {reprlib.repr(values)}")
    return values
