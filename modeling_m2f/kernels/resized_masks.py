"""Mask logits of one image, resized, merged and thresholded by csrc/resized_masks_cpu.cpp on a CPU.

What is computed is defined by image_processing/plain_masks.py in plain PyTorch, which runs everywhere else. A bilinear
resizing, a crop and another bilinear resizing are one weighted sum of cells, in each direction: its `AxisTable`.
"""

import ctypes
import functools
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from m2f.modeling_m2f.kernels.c_arguments import integers, pointer, threads
from m2f.modeling_m2f.kernels.cpu_source import CpuSource

RESIZED_MASKS = CpuSource("resized_masks_cpu.cpp", "Post-processing")
Size = tuple[int, ...]  # (height, width); torch.Size is a tuple of any length to a type checker
TILE = 32  # pixels that the kernel works on at once; as in the source
TAPS = 3  # cells that a pixel reads at most, because the first resizing does not shrink; as in the source


class AxisTable(NamedTuple):
    """Pixel i is the sum over k of weights[k, i] * map[cells[k, i]]."""

    cells: Tensor  # (TAPS, target + TILE) int32, ascending; at the end the last pixel's are repeated
    weights: Tensor  # (TAPS, target + TILE) float32

    @property
    def target(self) -> int:
        return self.cells.shape[1] - TILE


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
    kernel, work = RESIZED_MASKS.library().m2f_lay_masks, masks.numel()
    kernel(pointer(masks), *sizes, pointer(owner), pointer(kept), *threads(work))
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
        function = getattr(RESIZED_MASKS.library(), entry)
        function.restype = ctypes.c_int64
        inputs = (pointer(self._logits), pointer(self._chosen), table_addresses(self._tables), self._sizes)
        work = self._count * self._target[0] * self._target[1] if work is None else work
        return function(*inputs, *arguments, *threads(work))


def axis_tables(source: Size, padded: Size, valid: Size, target: Size) -> list[AxisTable]:
    """Of the rows and of the columns, see `axis_table`."""
    return [axis_table(*edges) for edges in zip(source, padded, valid, target, strict=True)]


def table_addresses(tables: list[AxisTable]) -> ctypes.Array:
    """For the C interface; valid while the tables are."""
    arrays = [array for table in tables for array in table]
    return (ctypes.c_void_p * len(arrays))(*(array.data_ptr() for array in arrays))


@functools.lru_cache(maxsize=64)
def axis_table(source: int, padded: int, valid: int, target: int) -> AxisTable:
    """`source` cells resized to `padded` >= source pixels, cropped to `valid`, and resized to `target`."""
    first, weight = _neighbours(source, padded)
    low, between = (np.arange(valid), np.zeros(valid)) if target == valid else _neighbours(valid, target)
    high = np.minimum(low + 1, valid - 1)
    weights = np.zeros((TAPS + 1, target))  # one more for what is beyond the last cell, where the weight is 0
    for pixels, share in ((low, 1 - between), (high, between)):
        offset = first[pixels] - first[low]
        weights[offset, np.arange(target)] += share * (1 - weight[pixels])
        weights[offset + 1, np.arange(target)] += share * weight[pixels]
    cells = np.minimum(first[low] + np.arange(TAPS)[:, None], source - 1)
    cells, weights = (np.pad(x, ((0, 0), (0, TILE)), mode="edge") for x in (cells, weights[:TAPS]))
    return AxisTable(torch.from_numpy(cells.astype(np.int32)), torch.from_numpy(weights.astype(np.float32)))


@functools.lru_cache(maxsize=64)
def _neighbours(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """The lower of the two cells that each pixel lies between, and the weight of the upper one (align_corners=False).

    PyTorch is asked: it rounds positions to float32, and how often differs. torch 2.13 rounds scale * (i + 0.5) - 0.5
    once where the processor has AVX2 and twice where it has not, torch 2.15 twice everywhere. From 1067 cells to 3000
    pixels the two differ by up to 6e-5 of a cell, more than all else that is rounded here.
    """
    pixels = np.arange(target)
    nearest = np.rint(np.clip(source / target * (pixels + 0.5) - 0.5, 0, source - 1)).astype(np.int64)
    # Each cell is 1 in the channel of its number modulo 3: the nearest cell and the two beside it are told apart.
    cells = torch.arange(source, device="cpu") % 3 == torch.arange(3, device="cpu")[:, None]
    shares = F.interpolate(cells.float()[None, :, :, None], (target, 1), mode="bilinear")[0, :, :, 0].numpy()
    below, at, above = (shares[(nearest + step) % 3, pixels].astype(np.float64) for step in (-1, 0, 1))
    return nearest - (below > 0), np.where(below > 0, at, above)
