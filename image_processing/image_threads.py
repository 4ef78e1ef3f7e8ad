"""Work on several images at once: PIL decodes and resizes, and PyTorch computes, without holding Python's lock."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")


def map_in_threads(function: Callable[..., Result], *items: Iterable) -> list[Result]:
    """`function` of each tuple of items, in their order, in as many threads as PyTorch has; the first error is raised.

    With one item or one thread (so in the workers of a DataLoader) it is a plain loop.
    """
    calls = list(zip(*items, strict=True))
    threads = min(len(calls), torch.get_num_threads())
    if threads < 2:
        return [function(*call) for call in calls]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda call: function(*call), calls))
