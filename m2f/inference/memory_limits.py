"""Images that are too large for the memory are refused with advice, before the system ends the program."""

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

_GIB = 2**30
_ADVICE = "segment it in tiles, such as --tile 1024 (tile=1024 in Python)"
# Bytes of one pixel beside the masks or scores: panoptic merging's maps (best score 4, winner 8, inside 1, ids 4, and
# temporaries of the same kinds), and one chunk of resized masks with its probabilities and products.
_BYTES_PER_PIXEL = 64
# Of an image in tiles: its pixels and those of its picture (6), its maps of ids and of stuff with weights (16), twice.
_TILED_BYTES_PER_PIXEL = 44


class ImageTooLargeError(ValueError):
    """The result of an image does not fit into memory."""


def check_memory(size: tuple[int, int], layers: int, layer_bytes: int, device: torch.device):
    """Raise `ImageTooLargeError` unless there is memory for `layers` maps of the image's size, and what is beside.

    Args:
        size: (height, width).
        layer_bytes: of a pixel in one of the maps.
    """
    needed = size[0] * size[1] * (_BYTES_PER_PIXEL + layers * layer_bytes)
    free = free_memory(device)
    if needed > free:
        raise ImageTooLargeError(
            f"its {size[0]} x {size[1]} pixels need about {needed / _GIB:.1f} GiB of memory in one piece, and "
            f"{free / _GIB:.1f} GiB are free on {device}; {_ADVICE}"
        )


def check_memory_of_tiles(size: tuple[int, int]):
    """Raise `ImageTooLargeError` unless there is memory for the result of an image that is segmented in tiles."""
    needed, free = size[0] * size[1] * _TILED_BYTES_PER_PIXEL, free_memory(torch.device("cpu"))
    if needed > free:
        raise ImageTooLargeError(
            f"its {size[0]} x {size[1]} pixels need about {needed / _GIB:.1f} GiB of memory even in tiles, and "
            f"{free / _GIB:.1f} GiB are free; cut it into several images"
        )


@contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Inside, running out of memory raises `ImageTooLargeError`.

    Args:
        what: is done with the image.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _too_large(what) from error
    except RuntimeError as error:
        # The CPU's allocator has no class of its own.
        if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        raise _too_large(what) from error


def _too_large(what: str) -> ImageTooLargeError:
    return ImageTooLargeError(f"memory is too small for {what}; {_ADVICE}, or use a smaller batch size")


def free_memory(device: torch.device) -> int:
    """Bytes on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What the caching allocator holds without using it is free too.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available
