"""Mask logits of one image, resized, merged and thresholded by csrc/resized_masks_cpu.cpp on a CPU.

What is computed is defined by image_processing/plain_masks.py in plain PyTorch, which runs everywhere else.
"""

import ctypes
import functools
import math

import numpy as np
import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.cpu_library import integers, pointer, threads
from m2f.modeling_m2f.kernels.resize_tables import TILE, AxisTable, Size, axis_tables, table_addresses
from m2f.modeling_m2f.kernels.whole_sources import library, use_source

SOURCE = "resized_masks_cpu.cpp"


def use_resized_masks(device: torch.device) -> bool:
    """Whether masks on `device` are handled by the kernel; plain PyTorch is what GPUs are meant to run.

    Raises:
        ValueError: M2F_KERNELS has an unknown value.
        KernelUnavailableError: M2F_KERNELS=compiled and the CPU's kernel cannot be had.
    """
    return use_source(SOURCE, device, "Post-processing")


class ResizedMasks:
    """N masks of an image at the target size (H,W), of which no more is stored than the logits.

    Args:
        logits: (Q,h,w) of any floating dtype, on the CPU.
        chosen: (N,) indices of the masks.
        padded: the logits are resized to this size, at least (h, w), cropped to `valid` and resized to `target`; all
            bilinear.
    """

    def __init__(self, logits: Tensor, chosen: Tensor, padded: Size, valid: Size, target: Size):
        self._target = target
        logits = logits.detach().float()
        self._maps = _Maps(logits, axis_tables(logits.shape[1:], padded, valid, target), chosen)
        self._tile_rows = -(-target[0] // TILE)
        self._bounds = torch.empty(self._tile_rows, -(-target[1] // TILE), 2, len(chosen))
        work = len(chosen) * logits[0].numel()
        #: Whether every logit is finite. Where one is not, the methods must not be called.
        self.finite = bool(self._maps.call("m2f_bound_masks", pointer(self._bounds), work=work))

    def merge(self, scores: Tensor, mask_threshold: float) -> tuple[Tensor, Tensor]:
        """Which mask wins each pixel: that with the largest score * sigmoid(logit), of equal ones the first.

        Args:
            scores: (N,) float32 in [0, 1].
            mask_threshold: the probability from which a pixel is in a mask.

        Returns:
            (H,W) int32, 1 + index of the winner, 0 where the winner's mask does not have the pixel; and (3,N) int64:
            for each mask the pixels that it wins, that it has, and both.
        """
        codes = (torch.empty if len(scores) else torch.zeros)(self._target, dtype=torch.int32)
        counts = torch.zeros(3, len(scores), dtype=torch.int64)
        scores, threshold = scores.contiguous(), ctypes.c_float(lowest_logit(mask_threshold))
        results = (pointer(codes), pointer(counts))
        self._maps.call("m2f_merge_masks", pointer(self._bounds), pointer(scores), threshold, *results)
        return codes, counts

    def measure(self, logit_threshold: float) -> tuple[Tensor, Tensor]:
        """(N,) int64 pixels whose logit is above the threshold, and (N,) float64 sums of their probabilities."""
        areas = torch.empty(self._bounds.shape[-1], self._tile_rows, dtype=torch.int64)
        sums = torch.empty(areas.shape, dtype=torch.float64)
        results = (pointer(areas), pointer(sums))
        self._maps.call("m2f_measure_masks", pointer(self._bounds), ctypes.c_float(logit_threshold), *results)
        return areas.sum(1), sums.sum(1)

    def binary(self, which: Tensor, logit_threshold: float) -> Tensor:
        """(M,H,W) bool, pixels whose logit is above the threshold, of the masks at the indices `which` (M,) of N."""
        # NumPy's zeros are pages that the system gives at the first touch; most of a mask is never touched.
        masks = torch.from_numpy(np.zeros((len(which), *self._target), dtype=bool))
        which = which.contiguous()
        arguments = (pointer(self._bounds), ctypes.c_float(logit_threshold), pointer(which))
        self._maps.call("m2f_write_masks", *arguments, ctypes.c_int64(len(which)), pointer(masks))
        return masks


def lay_masks(masks: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """(N,H,W) bool masks on one map, the first on top; one of whose pixels less than `share` is free is left out.

    Returns:
        (H,W) int32, -1 or the index of a mask among those that are kept; (N,) bool, which are kept.
    """
    masks = masks.contiguous()
    owner = torch.full(masks.shape[1:], -1, dtype=torch.int32)
    kept = torch.zeros(len(masks), dtype=torch.bool)
    sizes = (ctypes.c_int64(len(masks)), ctypes.c_int64(owner.numel()), ctypes.c_float(share))
    library(SOURCE).m2f_lay_masks(pointer(masks), *sizes, pointer(owner), pointer(kept), *threads(masks.numel()))
    return owner, kept


@functools.cache
def lowest_logit(probability: float) -> float:
    """The smallest float32 whose sigmoid, as PyTorch computes it in float32, is at least `probability` in [0, 1]."""
    if probability <= 0:
        return -math.inf
    low, high = -104.0, 104.0
    while np.nextafter(np.float32(low), np.float32(high)) < np.float32(high):
        middle = float(np.float32((low + high) / 2))
        low, high = (low, middle) if torch.tensor(middle).sigmoid() >= probability else (middle, high)
    return high


class _Maps:
    """The first arguments of most entries: (Q,h,w) float32, which of them, and the tables of the axes."""

    def __init__(self, logits: Tensor, tables: list[AxisTable], chosen: Tensor):
        self._logits, self._chosen, self._tables = logits.contiguous(), chosen.contiguous(), tables
        self._count, self._target = len(chosen), tuple(table.target for table in tables)
        self._sizes = integers(self._count, *logits.shape[1:], *self._target)

    def call(self, entry: str, *arguments, work: int | None = None) -> int:
        function = getattr(library(SOURCE), entry)
        function.restype = ctypes.c_int64
        inputs = (pointer(self._logits), pointer(self._chosen), table_addresses(self._tables), self._sizes)
        work = self._count * self._target[0] * self._target[1] if work is None else work
        return function(*inputs, *arguments, *threads(work))
