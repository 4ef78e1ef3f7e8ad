"""Target sizes whose results no memory holds are refused in one line, before work is lost."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

_GIB = 2**30
_ADVICE = "Pass smaller target_sizes or fewer images, or cut the image into tiles (m2f.Segmenter with tile=1024)"


def check_target_memory(targets: Sequence[tuple[int, int]], pixel_bytes: int, device: torch.device) -> None:
    """Raise ValueError unless there is memory for the results of a batch, on the outputs' device or the CPU, where
    they go when a GPU has no room.

    Args:
        targets: (height, width) of each result.
        pixel_bytes: that a result has for each of its pixels at least.
    """
    needed = pixel_bytes * sum(height * width for height, width in targets)
    free = _free_host_memory()
    if needed > free and device.type == "cuda":
        # What the caching allocator holds without using it is free too.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = max(free, torch.cuda.mem_get_info(device)[0] + unused)
    if needed > free:
        height, width = max(targets, key=lambda size: size[0] * size[1])
        raise ValueError(
            f"target_sizes ask for results of up to {height} x {width} pixels (height x width), which need {needed} "
            f"bytes ({-(-needed // _GIB)} GiB) of memory at least, and {free / _GIB:.1f} GiB are free. {_ADVICE}"
        )


@contextmanager
def clear_memory_errors(target: tuple[int, int]) -> Iterator[None]:
    """Inside, the CPU's memory running out raises MemoryError with the size that was asked for."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch's allocator for the CPU has no error of its own.
        if isinstance(error, RuntimeError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise MemoryError(
            f"memory is too small for post-processing at the target size {target[0]} x {target[1]} (height x width). "
            f"{_ADVICE}"
        ) from error


def _free_host_memory() -> int:
    """Bytes that are free; where psutil is missing, which remote code does not ask for, bytes that there are."""
    try:
        import psutil
    except ImportError:
        return _host_memory()
    return psutil.virtual_memory().available


def _host_memory() -> int:
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 2**47  # Windows does not tell without psutil; a process can address no more
