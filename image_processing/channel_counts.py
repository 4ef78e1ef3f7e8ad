"""How many channels an image has, and where an array has them."""

import reprlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads the limits here before it needs NumPy
    import numpy as np

USUAL_CHANNELS = 3
MOST_CHANNELS = 1024  # hyperspectral cameras have a few hundred
_USUAL_FORMS = (1, 3, 4)  # grey, colours, and colours with alpha, which is dropped


class ChannelCountError(ValueError):
    """An image has another number of channels than is expected."""


def channel_count_error(name: str, found: int, expected: int) -> ChannelCountError:
    """
    Args:
        name: what messages call the image.
    """
    channels, are = f"{found} channel{'s' * (found != 1)}", "is" if expected == 1 else "are"
    return ChannelCountError(
        f"{name} has {channels}, and {expected} {are} expected; give images of {expected}, or a model of {found} "
        f"(--channels {found} of m2f check and m2f train, num_channels of a processor)"
    )


def channels_last(
    array: "np.ndarray",
    input_data_format: str | None = None,
    prefer_first: bool = False,
    num_channels: int = USUAL_CHANNELS,
    name: str | None = None,
) -> "np.ndarray":
    """(H,W,C) view of a (H,W), (H,W,C) or (C,H,W) array.

    Args:
        input_data_format: "channels_first" or "channels_last"; None finds the channels by their number.
        prefer_first: where they are, if they may be at both ends.
        num_channels: C; where it is 3 also 1 and 4.
        name: what messages call it; a file, which has no alpha.

    Raises:
        ValueError: there are other channels, or no pixels.
    """
    found = f"an array of shape {tuple(array.shape)}" if name is None else f"{name}, {tuple(array.shape)},"
    if array.ndim == 2:
        array = array[:, :, None]
        if num_channels not in (1, USUAL_CHANNELS):
            raise channel_count_error(found, 1, num_channels)
    elif array.ndim != 3:
        raise ValueError(f"{found} is no image: expected (H,W), (H,W,C) or (C,H,W)")
    else:
        counts: tuple[int, ...] = _USUAL_FORMS if num_channels == USUAL_CHANNELS else (num_channels,)
        counts = counts if name is None else tuple(count for count in counts if count <= num_channels)
        axis = _channel_axis(array.shape, input_data_format, prefer_first, counts, found)
        array = array.transpose(*(other for other in range(3) if other != axis), axis)
    check_pixels(array.shape[:2], found)
    return array


def check_pixels(size: tuple[int, ...], found: str) -> None:
    """Raise ValueError unless height and width are at least 1."""
    if 0 in size:
        raise ValueError(f"{found} has no pixels: height {size[0]}, width {size[1]}; both must be at least 1")


def _channel_axis(
    shape: tuple[int, ...], input_data_format: str | None, prefer_first: bool, counts: tuple[int, ...], found: str
) -> int:
    axes = [axis for axis in ((0, 2) if prefer_first else (2, 0)) if shape[axis] in counts]
    if input_data_format is not None:
        wanted = {"channels_first": 0, "channels_last": 2}.get(
            str(getattr(input_data_format, "value", input_data_format))
        )
        if wanted is None:
            shown = reprlib.repr(input_data_format)
            raise ValueError(f"input_data_format must be channels_first or channels_last, got {shown}")
        axes = [axis for axis in axes if axis == wanted]
    if axes:
        return axes[0]
    channels = min(shape[0], shape[2])
    if counts != _USUAL_FORMS:
        raise channel_count_error(found, channels, counts[-1])
    expected = "1, 3 or 4 channels, first or last" if input_data_format is None else f"1, 3 or 4, {input_data_format}"
    raise ValueError(f"{found} is no image: expected {expected}; {channels} channels were found")
