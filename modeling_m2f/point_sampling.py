"""Masks seen at points instead of pixels (Kirillov et al., PointRend, CVPR 2020; Cheng et al. 2022, section 3.3)."""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def sample_at_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points, 0 beyond the borders.

    Args:
        maps: (N, C, h, w), any dtype; sampled in float32, because half-precision coordinates miss pixels.
        points: (N or 1, R, 2) float32, (x, y) in [0, 1] of the map's extent; 1 means the same points for all maps.

    Returns:
        (N, C, R) float32.
    """
    grid = 2 * points.expand(maps.shape[0], -1, -1)[:, :, None] - 1
    return grid_sample(maps.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False).squeeze(-1)


@torch.no_grad()
def uncertain_points(mask_logits: Tensor, num_points: int, oversample_ratio: float, importance_ratio: float) -> Tensor:
    """Points to train a mask at: most of them where the prediction is undecided, the rest uniform.

    `oversample_ratio * num_points` uniform points are drawn, the `importance_ratio * num_points` with logits nearest
    to 0 are kept, and uniform ones fill up.

    Args:
        mask_logits: (N, h, w).

    Returns:
        (N, num_points, 2) float32, (x, y) in [0, 1).
    """
    count, device = mask_logits.shape[0], mask_logits.device
    candidates = torch.rand(count, int(num_points * oversample_ratio), 2, device=device)
    num_uncertain = int(importance_ratio * num_points)
    distance = sample_at_points(mask_logits[:, None], candidates).squeeze(1).abs()
    nearest = distance.topk(num_uncertain, dim=1, largest=False).indices
    kept = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
    return torch.cat([kept, torch.rand(count, num_points - num_uncertain, 2, device=device)], 1)
