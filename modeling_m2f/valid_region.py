"""Padding: which cells of a feature map belong to an image, and how to keep the others out of a computation.

An image fills the top left corner of its canvas; right and below it is padding. A cell of a feature map is valid when
it covers at least one real pixel. The original attends to padding as if it were image; these functions make an image
give the same result in every batch (departure, switched off by `M2FConfig.mask_padding=False`).
"""

import torch
from torch import Tensor, nn

from m2f.modeling_m2f.pixel_values import round_up


class ValidRegion:
    """The valid part of each canvas of a batch.

    Args:
        sizes: (B, 2) int64, (h, w) of each image's real pixels.
        canvas: (H, W) of `pixel_values`.
    """

    def __init__(self, sizes: Tensor, canvas: tuple[int, ...]):
        self.sizes = sizes
        self.canvas = canvas

    def cells(self, map_size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Valid rows and valid columns, (B,) int64 each, of a feature map of `map_size` = (H_l, W_l)."""
        rows, columns = (
            (self.sizes[:, axis] * map_size[axis] + self.canvas[axis] - 1) // self.canvas[axis] for axis in (0, 1)
        )
        return rows, columns

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> "ValidRegion":
        """On another device; so Accelerate moves the arguments of a module to where the module is."""
        return ValidRegion(self.sizes.to(device, non_blocking=non_blocking), self.canvas)

    def mask(self, map_size: tuple[int, ...]) -> Tensor:
        """(B, H_l, W_l) bool, True where a cell is valid."""
        rows, columns = self.cells(map_size)
        row_valid = torch.arange(map_size[0], device=rows.device) < rows[:, None]
        column_valid = torch.arange(map_size[1], device=rows.device) < columns[:, None]
        return row_valid[:, :, None] & column_valid[:, None, :]

    def extent(self, map_size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Rows and columns, (B,) float32 each, that a feature map would have for each image with a canvas of its own,
        that is, for its size rounded up to a multiple of the coarsest stride."""
        own_canvas = round_up(self.sizes)
        rows, columns = (own_canvas[:, axis].float() / (self.canvas[axis] // map_size[axis]) for axis in (0, 1))
        return rows, columns


def within(valid: "ValidRegion | None", module: nn.Module, features: Tensor) -> Tensor:
    """`module(features, valid)`, 0 in the padding; where there is none, or where another module has been put in the
    place of one of ours that knows no padding, `module(features)`.

    Args:
        features: (B, C, H_l, W_l). module: keeps the size.
    """
    if valid is None:
        return module(features)
    if getattr(module, "knows_padding", False):  # or a wrapper around one of ours, whose attributes it has
        return module(features, valid)
    return zero_padding(module(features), valid)


def zero_padding(features: Tensor, valid: ValidRegion | None) -> Tensor:
    """(B, C, H_l, W_l) with zeros outside the valid region, whatever stood there, NaN included."""
    if valid is None:
        return features
    return features.masked_fill(~valid.mask(features.shape[-2:])[:, None], 0)


def replicate_edge(features: Tensor, valid: ValidRegion | None) -> Tensor:
    """(B, C, H_l, W_l) with the last valid row and column repeated over the padding.

    Bilinear resizing then treats the border of the image as it treats the border of a map.
    """
    if valid is None:
        return features
    height, width = features.shape[-2:]
    last_row, last_column = (cells[:, None] - 1 for cells in valid.cells((height, width)))
    rows = torch.minimum(torch.arange(height, device=features.device), last_row)
    columns = torch.minimum(torch.arange(width, device=features.device), last_column)
    rows = rows[:, None, :, None].expand(-1, features.shape[1], -1, width)
    columns = columns[:, None, None, :].expand(-1, features.shape[1], height, -1)
    return features.gather(2, rows).gather(3, columns)
