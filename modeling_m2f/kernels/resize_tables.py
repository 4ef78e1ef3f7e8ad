"""Bilinear resizing, a crop and another bilinear resizing as one weighted sum of cells, in one direction."""

import ctypes
import functools
from typing import NamedTuple

import numpy as np
import torch
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


def _neighbours(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """The lower of the two cells that each pixel lies between, and the weight of the upper one (align_corners=False).

    Positions are PyTorch's, which rounds them to float32: at pixel 1000 that moves a weight by up to 3e-5, more than
    all else that is rounded here.
    """
    scale = float(np.float32(source) / np.float32(target))
    position = np.maximum((scale * (np.arange(target) + 0.5) - 0.5).astype(np.float32), np.float32(0))
    low = np.minimum(position.astype(np.int64), source - 1)
    return low, np.where(low < source - 1, (position - low).astype(np.float64), 0)  # no cell is above the last one
