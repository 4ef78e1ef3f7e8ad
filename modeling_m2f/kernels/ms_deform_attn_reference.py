"""Multi-scale deformable attention in plain PyTorch: the definition that every kernel is tested against."""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


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
        value: (B, S, M, D), levels one after another, rows before columns.
        spatial_shapes: (H_l, W_l) of each of the L levels.
        reference_points: (B, Q, L, 2) as (x, y) in [0, 1] of the whole map; B may be 1 for all images.
        sampling_offsets: (B, Q, M, L, P, 2) as (x, y) in cells of level l.
        attention_logits: (B, Q, M, L * P), before the softmax.

    Returns:
        (B, Q, M * D) in the dtype of `value`. Locations, weights and sums are computed in float32, or in float64
        where `value` is.
    """
    batch, _, heads, head_dim = value.shape
    queries = sampling_offsets.shape[1]
    dtype = torch.promote_types(value.dtype, torch.float32)
    weights = attention_logits.to(dtype).softmax(-1).unflatten(-1, sampling_offsets.shape[3:5])
    out = value.new_zeros(batch * heads, head_dim, queries, dtype=dtype)
    for level, ((height, width), level_value) in enumerate(
        zip(spatial_shapes, value.split([h * w for h, w in spatial_shapes], dim=1), strict=True)
    ):
        offsets = sampling_offsets[:, :, :, level].to(dtype)  # (B, Q, M, P, 2)
        point = reference_points[:, :, None, level, None, :].to(dtype)
        x, y = point[..., 0] + offsets[..., 0] / width, point[..., 1] + offsets[..., 1] / height
        # (B, Q, M, P, 2) -> (B*M, Q, P, 2), in grid_sample's [-1, 1]
        grid = torch.stack([2 * x - 1, 2 * y - 1], -1).transpose(1, 2).flatten(0, 1)
        # contiguous: grid_sample on a CPU reads out of bounds for strided half-precision input (torch 2.13)
        planes = level_value.to(dtype).permute(0, 2, 3, 1).reshape(batch * heads, head_dim, height, width).contiguous()
        sampled = grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)  # (B*M,D,Q,P)
        level_weights = weights[:, :, :, level].transpose(1, 2).flatten(0, 1).unsqueeze(1)  # (B*M, 1, Q, P)
        out = out + (sampled * level_weights).sum(-1)
    return out.view(batch, heads * head_dim, queries).transpose(1, 2).to(value.dtype)
