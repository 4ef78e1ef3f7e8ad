"""Peak memory of a piece of work: what PyTorch hands out on a GPU, the resident set elsewhere on Linux."""

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

import torch

CLEAR_PEAK = "5"  # what /proc/self/clear_refs takes to reset the peak of the resident set


def can_measure(device: str) -> bool:
    return device == "cuda" or Path("/proc/self/clear_refs").exists()


def growth(work: Callable[[], object], device: str = "cpu") -> int:
    """Bytes above what was held before, at the worst moment of `work`."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that the process still holds would be used again, unseen
    Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    (kilobytes,) = re.findall(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(kilobytes)
