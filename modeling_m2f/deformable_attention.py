"""Multi-scale deformable attention: the projections around the op, which holds all the arithmetic."""

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init

from m2f.modeling_m2f.hub_kernel import ReplaceableSampling
from m2f.modeling_m2f.linear import Linear
from m2f.modeling_m2f.weight_init import xavier_


class MultiScaleDeformableAttention(nn.Module):
    """Attention of each query to P points per head and level, at offsets from its reference point.

    Zhu et al., "Deformable DETR", ICLR 2021, section 4.1.

    Args:
        channels: C, a multiple of `num_heads`.
        num_heads: M.
        num_levels: L.
        num_points: P.
    """

    def __init__(self, channels: int, num_heads: int, num_levels: int, num_points: int):
        super().__init__()
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        self.sampling_offsets = Linear(channels, num_heads * num_levels * num_points * 2)
        self.attention_weights = Linear(channels, num_heads * num_levels * num_points)
        self.value_proj = Linear(channels, channels)
        self.output_proj = Linear(channels, channels)
        self.sampling = ReplaceableSampling()

    def init_original_weights(self):
        """Offsets start on rays, one per head, point p at distance p + 1; attention starts uniform."""
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        rays = torch.stack([angles.cos(), angles.sin()], -1)
        rays = rays / rays.abs().amax(-1, keepdim=True)  # (M, 2) on the border of the unit square
        distances = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = rays[:, None, None] * distances[:, None]  # (M, 1, P, 2)
        init.zeros_(self.sampling_offsets.weight)
        init.copy_(self.sampling_offsets.bias, offsets.expand(-1, self.num_levels, -1, -1).flatten())
        init.zeros_(self.attention_weights.weight)
        init.zeros_(self.attention_weights.bias)
        xavier_(self.value_proj)
        xavier_(self.output_proj)

    def forward(
        self,
        queries: Tensor,
        values: Tensor,
        reference_points: Tensor,
        spatial_shapes: list[tuple[int, int]],
        padding: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            queries: (B, Q, C), position embedding included.
            values: (B, S, C), without it.
            reference_points: (1 or B, Q, L, 2) float32, (x, y) in [0, 1].
            spatial_shapes: (H_l, W_l) of each level.
            padding: (B, S) bool, True for cells whose value counts as zero.

        Returns:
            (B, Q, C).
        """
        value = self.value_proj(values)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0)
        per_level = (self.num_heads, self.num_levels, self.num_points)
        attended = self.sampling.attend(
            value.unflatten(-1, (self.num_heads, -1)),
            spatial_shapes,
            reference_points,
            self.sampling_offsets(queries).unflatten(-1, (*per_level, 2)),
            self.attention_weights(queries).unflatten(-1, (self.num_heads, -1)),
        )
        return self.output_proj(attended)
