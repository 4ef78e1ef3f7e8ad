"""Sine position embedding in two dimensions (Carion et al., DETR, ECCV 2020, appendix A.4)."""

import math

import torch
from torch import Tensor

from m2f.modeling_m2f.valid_region import ValidRegion

TEMPERATURE = 10000.0


def sine_position_embedding(
    map_size: tuple[int, ...], channels: int, device: torch.device, valid: ValidRegion | None = None
) -> Tensor:
    """Position of each cell of a map, normalised to (0, 2 pi] over the image's own canvas.

    Always float32: in bfloat16 neighbouring positions of a large map coincide.

    Args:
        map_size: (H_l, W_l).
        channels: C, a multiple of 4; the first half encodes the row, the second the column.
        valid: with it, rows and columns are normalised by the canvas that each image would have alone.

    Returns:
        (1 or B, H_l * W_l, C) float32.
    """
    height, width = map_size
    row_extent, column_extent = map_size if valid is None else (e[:, None] for e in valid.extent(map_size))
    rows = _encode(height, row_extent, channels // 2, device)[:, :, None].expand(-1, -1, width, -1)
    columns = _encode(width, column_extent, channels // 2, device)[:, None].expand(-1, height, -1, -1)
    return torch.cat(torch.broadcast_tensors(rows, columns), -1).flatten(1, 2)


def _encode(length: int, extent: int | Tensor, channels: int, device: torch.device) -> Tensor:
    """(1 or B, length, channels): sine and cosine, interleaved, of positions 1..length out of `extent`."""
    positions = torch.arange(1, length + 1, dtype=torch.float32, device=device) / (extent + 1e-6) * (2 * math.pi)
    exponents = 2 * torch.arange(channels // 2, dtype=torch.float32, device=device) / channels
    angles = positions.view(-1, length, 1) / TEMPERATURE**exponents
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(2)
