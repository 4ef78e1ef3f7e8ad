"""Bilinear resizing, a crop and another bilinear resizing as one weighted sum of cells, in one direction."""

import ctypes
import functools
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]  # (height, width)
TILE = 32  # pixels that the kernel works on at once; as in the source
TAPS = 3  # cells that a pixel reads at most, because the first resizing does not shrink; as in the source


class AxisTable(NamedTuple):
    """Pixel i is the sum over k of weights[k, i] * map[cells[k, i]]."""

    cells: Tensor  # (TAPS, target + TILE) int32, ascending; at the end the last pixel's are repeated
    weights: Tensor  # (TAPS, target + TILE) float32

    @property
    def target(self) -> int:
        return self.cells.shape[1] - TILE


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
