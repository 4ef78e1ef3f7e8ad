"""Attention within windows in plain PyTorch: the definition, for tests, and for devices without a kernel."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# What separates the regions of a window that were no neighbours before the shift, as in the original Swin.
SEPARATION = -100.0


def window_attention_reference(
    qkv: Tensor, padding: Tensor, bias: Tensor, height: int, width: int, shift: int
) -> Tensor:
    """Shifted-window attention of a feature map.

    Args:
        qkv: (B, H * W, 3, M, D), queries, keys and values of M heads.
        padding: (3, M, D), those of the cells that fill the map up to whole windows.
        bias: (M, N, N), added to the scores of the N = window ** 2 cells of a window.
        height, width: H and W.
        shift: cells by which the windows are shifted, in [0, window).

    Returns:
        (B, H * W, M * D).
    """
    window = int(bias.shape[-1] ** 0.5)
    cells, mask = _windows(height, width, window, shift, qkv.device)
    extended = torch.cat([qkv, padding.expand(len(qkv), 1, -1, -1, -1)], 1)
    query, key, value = extended[:, cells].permute(3, 0, 1, 4, 2, 5)  # (B, windows, M, N, D) each
    scores = bias if mask is None else bias + mask[:, None].to(bias.dtype)
    attended = scaled_dot_product_attention(query, key, value, attn_mask=scores.to(query.dtype))
    attended = attended.transpose(2, 3).flatten(3).flatten(1, 2)
    inside = (cells.flatten() < height * width).nonzero().flatten()
    out = attended.new_empty(len(qkv), height * width, attended.shape[-1])
    return out.index_copy(1, cells.flatten()[inside], attended[:, inside])


def _windows(height: int, width: int, window: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """(windows, N) index of each cell, H * W for one that fills up, and (windows, N, N) what separates regions."""
    rows, columns = (-(-length // window) * window for length in (height, width))
    y = (torch.arange(rows, device=device) + shift) % rows
    x = (torch.arange(columns, device=device) + shift) % columns
    cells = torch.where((y < height)[:, None] & (x < width), y[:, None] * width + x, height * width)
    cells = _cut(cells, window)
    if not shift:
        return cells, None
    region = 3 * _parts(rows, window, shift, device)[:, None] + _parts(columns, window, shift, device)
    region = _cut(region, window)
    return cells, (region[:, None] != region[:, :, None]) * SEPARATION


def _parts(length: int, window: int, shift: int, device: torch.device) -> Tensor:
    position = torch.arange(length, device=device)
    return (position >= length - window).long() + (position >= length - shift).long()


def _cut(grid: Tensor, window: int) -> Tensor:
    """(H, W) -> (windows, N)."""
    return grid.unflatten(0, (-1, window)).unflatten(2, (-1, window)).transpose(1, 2).flatten(2).flatten(0, 1)
