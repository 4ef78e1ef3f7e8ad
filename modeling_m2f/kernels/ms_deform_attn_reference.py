"""Multi-scale deformable attention in plain PyTorch: the definition that every kernel is tested against."""

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.bilinear_sampling import bilinear
from m2f.modeling_m2f.kernels.portable_graph import is_portable


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
    if is_portable():
        return _sum_of_rows(value, spatial_shapes, locations, weights)
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


def _sum_of_rows(value: Tensor, spatial_shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """`sum_at_locations` by gathering rows: what a head has of a cell is a row of D numbers. All levels together,
    because the number of operators decides how long an export takes."""
    batch, cells, heads, head_dim = value.shape
    rows = value.reshape(batch * cells * heads, head_dim)
    heights, widths, first = (_per_level(x, value) for x in _sizes_and_starts(spatial_shapes))  # (L, 1)
    (row, row_share), (column, column_share) = (
        _neighbours_inside(locations[..., i] * length - 0.5, length) for i, length in ((1, heights), (0, widths))
    )
    # In float32 exact up to 2^24 cells.
    image = torch.arange(batch, device=value.device)[:, None, None, None, None] * cells
    head = torch.arange(heads, device=value.device)[:, None, None]
    out: Tensor | None = None
    for y, y_share in zip(row, row_share, strict=True):
        for x, x_share in zip(column, column_share, strict=True):
            cell = (y * widths + x + first).long() + image
            corner = rows.index_select(0, (cell * heads + head).flatten()).view(*weights.shape[:3], -1, head_dim)
            part = (y_share * x_share * weights).flatten(3)[..., None, :] @ corner  # (B, Q, M, 1, D)
            out = part if out is None else out + part
    assert out is not None
    return out.flatten(2)


def _sizes_and_starts(spatial_shapes: list[tuple[int, int]]) -> tuple[list[int], list[int], list[int]]:
    """Of each level height, width, and the number of cells before it."""
    heights, widths = ([shape[i] for shape in spatial_shapes] for i in (0, 1))
    areas = [height * width for height, width in spatial_shapes]
    return heights, widths, [sum(areas[:level]) for level in range(len(areas))]


def _per_level(numbers: list[int], like: Tensor) -> Tensor:
    # One by one, because of a list an exporter would keep the numbers of its example.
    return torch.stack([torch.full((), number, dtype=like.dtype, device=like.device) for number in numbers])[:, None]


def _neighbours_inside(position: Tensor, length: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The cells before and after each position along an axis, and their shares, 0 beyond the border."""
    before = position.floor()
    share = position - before
    cells, shares = [before, before + 1], [1 - share, share]
    inside = [(cell >= 0) & (cell < length) for cell in cells]
    return (
        [torch.minimum(cell.clamp(min=0), length - 1) for cell in cells],
        [part * is_inside for part, is_inside in zip(shares, inside, strict=True)],
    )
