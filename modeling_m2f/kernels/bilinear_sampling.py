"""Bilinear values of maps in plain PyTorch."""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from m2f.modeling_m2f.kernels.readable_memory import is_forward_mode


def bilinear(maps: Tensor, grid: Tensor) -> Tensor:
    """`grid_sample`, 0 beyond the borders: maps (N, C, h, w) at (x, y) = grid (N, Q, P, 2), where [-1, 1] is the map:
    (N, C, Q, P). PyTorch has no forward-mode derivative of it (torch 2.13), so there it is put together of gathers."""
    if torch.compiler.is_compiling() or not is_forward_mode():
        return grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    height, width = maps.shape[2:]
    flat, values = maps.flatten(2), maps.new_zeros(())
    x, y = (((grid[..., i] + 1) * length - 1) / 2 for i, length in enumerate((width, height)))
    for row, row_share in _neighbours(y):
        for column, column_share in _neighbours(x):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            cell = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            cells = cell.flatten(1)[:, None].expand(-1, maps.shape[1], -1)
            corner = flat.gather(2, cells).unflatten(2, grid.shape[1:3])
            values = values + corner * (row_share * column_share * inside)[:, None]
    return values


def _neighbours(position: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The cells before and after each position along one axis, int64, with their shares."""
    before = position.detach().floor()
    share = position - before
    before = before.nan_to_num().long()
    return [(before, 1 - share), (before + 1, share)]
