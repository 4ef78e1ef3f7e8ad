"""Times of several pieces of work, taken in turn, so that whatever else a machine does meets all of them."""

import time
from collections.abc import Callable, Mapping, Sequence

import torch

from m2f.bench.measurement_report import spread


def paired_seconds(
    works: Mapping[str, Callable[[], object]], repetitions: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of each piece of work, `repetitions` times in turn, after one run of each that does not count."""
    for work in works.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repetitions):
        for name, work in works.items():
            _wait(device)
            start = time.perf_counter()
            work()
            _wait(device)
            found[name].append(time.perf_counter() - start)
    return found


def ratios(seconds: Mapping[str, Sequence[float]], reference: str) -> dict[str, dict[str, float]]:
    """How many times faster than the reference each is, from neighbours in time."""
    return {
        name: spread([theirs / own for own, theirs in zip(values, seconds[reference], strict=True)])
        for name, values in seconds.items()
    }


def _wait(device: str):
    if device == "cuda":
        torch.cuda.synchronize()
