"""Masks seen at points instead of pixels (Kirillov et al., PointRend, CVPR 2020; Cheng et al. 2022, section 3.3).

A point is (x, y) in [0, 1] of the canvas, so that it means the same place in the pixels, the targets and the mask
features, whatever their sizes.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from m2f.modeling_m2f.kernels.bilinear_sampling import bilinear
from m2f.modeling_m2f.kernels.readable_memory import is_readable
from m2f.modeling_m2f.kernels.sampled_points import SAMPLED_POINTS, draw_uniform, sample_shared
from m2f.modeling_m2f.untransformed import untransformed


def uniform_points(count: int, num_points: int, device: torch.device) -> Tensor:
    """(count, num_points, 2) float32, uniform in [0, 1).

    On a CPU a row depends on PyTorch's default generator and the rows before it alone, not on how many follow. The
    kernel draws it from a seed that the generator gives, so its numbers are not those of plain PyTorch.
    """
    with untransformed():
        if is_readable() and SAMPLED_POINTS.runs_on(device):
            seeds = torch.empty(count, dtype=torch.int64).random_()
            return draw_uniform(seeds, 2 * num_points).view(count, num_points, 2)
        return torch.rand(count, num_points, 2, device=device)


def sample_at_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points, 0 beyond the borders.

    Args:
        maps: (N, C, h, w), any dtype; sampled in float32, because half-precision coordinates miss pixels.
        points: (N or 1, R, 2) float32; 1 means the same points for all maps.

    Returns:
        (N, C, R) float32.
    """
    grid = (2 * points).sub_(1).expand(maps.shape[0], -1, -1)[:, :, None]
    return bilinear(maps.float(), grid).squeeze(-1)


def bilinear_corners(
    points: Tensor, size: tuple[int, ...], canvas: tuple[int, ...] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The four cells of a map around each point, and their weights, one corner after the other.

    The weighted sum over the corners is what `sample_at_points` gives.

    Args:
        points: (..., 2) float32, in [0, 1].
        size: (h, w) of the map, which fills the top left corner of the canvas.
        canvas: (H, W) in cells; by default `size`.

    Yields:
        (...) int64 indices in [0, h * w) and (...) float32 weights, 0 for a cell beyond the borders.
    """
    canvas = canvas or size
    columns = _neighbours(points[..., 0], size[1], canvas[1])
    for row, row_share in _neighbours(points[..., 1], size[0], canvas[0]):
        row = row * size[1]
        for column, column_share in columns:
            yield row + column, row_share * column_share


def _neighbours(coordinates: Tensor, length: int, canvas_length: int) -> list[tuple[Tensor, Tensor]]:
    """The cells before and after each coordinate along one axis, with their shares; a cell beyond the borders is
    replaced by the nearest one, with share 0."""
    positions = coordinates * canvas_length - 0.5
    before = positions.floor()
    share = positions - before
    before = before.long()
    after = before + 1
    # Coordinates lie in [0, 1]: nothing is before -1, and only a map smaller than the canvas ends before a point.
    share_before, share_after = (1 - share) * (before >= 0), share * (after < length)
    if length < canvas_length:
        share_before *= before < length
    return [(before.clamp_(0, length - 1), share_before), (after.clamp_(max=length - 1), share_after)]


@torch.no_grad()
def sample_cells(cells: Tensor, points: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear values of one map with many channels, 20 times faster on a CPU than `sample_at_points`, because a
    cell's channels lie side by side.

    Args:
        cells: (h * w, C) float32. points: (R, 2). size: (h, w).

    Returns:
        (R, C) float32.
    """
    indices, weights = (torch.stack(parts, -1) for parts in zip(*bilinear_corners(points, size), strict=True))
    return embedding_bag(indices, cells, per_sample_weights=weights, mode="sum")


@torch.no_grad()
def sample_features(features: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of one map with many channels: (C, h, w) and (R, 2) -> (C, R) float32."""
    features = features.float()
    if is_readable(features, points) and SAMPLED_POINTS.runs_on(features.device):
        return sample_shared(features, points)
    return sample_cells(features.flatten(1).T.contiguous(), points, features.shape[1:]).T


class PointChoice(NamedTuple):
    """How many points a mask is compared at, and which, see `uncertain_points`."""

    num_points: int
    oversample_ratio: float
    importance_ratio: float

    @property
    def num_candidates(self) -> int:
        return int(self.num_points * self.oversample_ratio)

    @property
    def num_uncertain(self) -> int:
        """Of the candidates those that are kept."""
        return int(self.importance_ratio * self.num_points)

    @property
    def num_drawn(self) -> int:
        """Candidates and the points that fill up."""
        return self.num_candidates + self.num_points - self.num_uncertain


def drawn_points(count: int, choice: PointChoice, device: torch.device) -> Tensor:
    """The points of `count` masks that `uncertain_points` begins with, candidates first: (count, num_drawn, 2)."""
    # In one draw, so that on a CPU a mask's points depend on the masks before it alone, not on how many follow.
    return uniform_points(count, choice.num_drawn, device)


@torch.no_grad()
def uncertain_points(
    mask_logits: Tensor,
    num_points: int,
    oversample_ratio: float,
    importance_ratio: float,
    weigh: Callable[[Tensor], Tensor | None] = lambda points: None,
) -> Tensor:
    """Points to train a mask at: most of them where the prediction is undecided, the rest uniform.

    `oversample_ratio * num_points` uniform points are drawn, the `importance_ratio * num_points` with logits nearest
    to 0 are kept, and uniform ones fill up. All are drawn over the whole canvas as in the original; points of weight 0
    are kept only where there are no others (the original has no such points).

    Args:
        mask_logits: (N, h, w).
        weigh: gives the weights (N, R) of points (N, R, 2), 0 or 1, or None where all are 1.

    Returns:
        (N, num_points, 2) float32.
    """
    choice = PointChoice(num_points, oversample_ratio, importance_ratio)
    drawn = drawn_points(len(mask_logits), choice, mask_logits.device)
    candidates, others = drawn[:, : choice.num_candidates], drawn[:, choice.num_candidates :]
    distance = sample_at_points(mask_logits[:, None], candidates).squeeze(1).abs()
    weights = weigh(candidates)
    if weights is not None:
        distance.masked_fill_(weights == 0, torch.inf)
    nearest = distance.topk(choice.num_uncertain, dim=1, largest=False, sorted=False).indices
    return torch.cat([candidates.gather(1, nearest[..., None].expand(-1, -1, 2)), others], 1)
