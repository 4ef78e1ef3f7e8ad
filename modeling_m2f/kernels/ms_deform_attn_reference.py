"""Multi-scale deformable attention in plain PyTorch: the definition that every kernel is tested against."""

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.bilinear_sampling import bilinear


def ms_deform_attn_reference(
    value: Tensor,
    spatial_shapes: list[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """out[b,q,m] = sum_{l,p} softmax_{l,p}(attention_logits[b,q,m]) * value_l(location[b,q,m,l,p])

    where location[b,q,m,l,p] = reference_points[b,q,l] + sampling_offsets[b,q,m,l,p] / (W_l, H_l) and value_l(x, y)
    is the bilinear interpolation of level l of `value[b, :, m]` at x * W_l - 1/2, y * H_l - 1/2,
    zero outside the map. Zhu et al., "Deformable DETR", ICLR 2021, equation 3.

    Args:
        value: (B, S, M, D), S = sum of H_l * W_l, level by level and row by row.
        spatial_shapes: (H_l, W_l) of each of L levels.
        reference_points: (1 or B, Q, L, 2) as (x, y), [0, 1] being the map.
        sampling_offsets: (B, Q, M, L, P, 2) as (x, y) in cells of level l.
        attention_logits: (B, Q, M, L * P), before the softmax.

    Returns:
        (B, Q, M * D) in the dtype of `value`. Locations, weights and sums are computed in float32, or in float64
        where `value` is.
    """
    dtype = torch.promote_types(value.dtype, torch.float32)
    points = (reference_points.to(dtype), sampling_offsets.to(dtype), attention_logits.to(dtype))
    locations, weights = locations_and_weights(spatial_shapes, *points)
    return sum_at_locations(value.to(dtype), spatial_shapes, locations, weights).to(value.dtype)


def locations_and_weights(
    spatial_shapes: list[tuple[int, int]], reference_points: Tensor, sampling_offsets: Tensor, attention_logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Locations (B, Q, M, L, P, 2) as (x, y), [0, 1] being the map, and weights (B, Q, M, L, P) that add up to 1."""
    levels = []
    for level, (height, width) in enumerate(spatial_shapes):
        point, offset = reference_points[:, :, None, level, None, :], sampling_offsets[:, :, :, level]
        # By numbers: a tensor of sizes would have to be copied to the device, which a CUDA graph cannot hold.
        xy = (point[..., 0] + offset[..., 0] / width, point[..., 1] + offset[..., 1] / height)
        levels.append(torch.stack(xy, -1))
    return torch.stack(levels, 3), attention_logits.softmax(-1).unflatten(-1, sampling_offsets.shape[3:5])


def sum_at_locations(
    value: Tensor, spatial_shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """(B, Q, M * D): the weighted sum of `value` (B, S, M, D) at `locations`, both of one dtype with `weights`."""
    batch, _, heads, head_dim = value.shape
    queries = locations.shape[1]
    out = value.new_zeros(batch * heads, head_dim, queries)
    for level, ((height, width), level_value) in enumerate(
        zip(spatial_shapes, value.split([h * w for h, w in spatial_shapes], dim=1), strict=True)
    ):
        # (B, Q, M, P, 2) -> (B*M, Q, P, 2), in grid_sample's [-1, 1]
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        # contiguous: grid_sample on a CPU reads out of bounds for strided half-precision input (torch 2.13)
        planes = level_value.permute(0, 2, 3, 1).reshape(batch * heads, head_dim, height, width).contiguous()
        sampled = bilinear(planes, grid)  # (B*M, D, Q, P)
        level_weights = weights[:, :, :, level].transpose(1, 2).flatten(0, 1).unsqueeze(1)  # (B*M, 1, Q, P)
        out = out + (sampled * level_weights).sum(-1)
    return out.view(batch, heads * head_dim, queries).transpose(1, 2)
