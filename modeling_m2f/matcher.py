"""Bipartite matching between queries and targets (Carion et al., DETR, ECCV 2020; Cheng et al. 2022, section 3.3)."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from m2f.modeling_m2f.kernels.readable_memory import is_readable
from m2f.modeling_m2f.kernels.sampled_points import SAMPLED_POINTS, sigmoid_sums

# Per image (query indices, target indices), min(Q, N) of each, int64 on the logits' device.
Matches = list[tuple[Tensor, Tensor]]


def pairwise_mask_cost(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sigmoid cross-entropy of every query with every target, averaged over the points.

    Args:
        logits: (Q, R). targets: (N, R) in [0, 1].
        weights: (R,), of each point in the average; all 1 by default. Without any weight the cost is 0.

    Returns:
        (Q, N): mean_r softplus(logit) - target * logit, which is -t log p - (1 - t) log(1 - p).
    """
    if weights is None:
        return (softplus(logits).sum(-1, keepdim=True) - logits @ targets.T) / logits.shape[-1]
    sums = softplus(logits) @ weights[:, None] - logits @ (weights * targets).T
    return sums / weights.sum().clamp(min=1)


def pairwise_dice_cost(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 - (2 p.t + 1) / (sum p + sum t + 1) of every query (Q, R) with every target (N, R): (Q, N) in [0, 1); with
    weights (R,), in [0, 1], of each point in every sum."""
    probabilities = logits.sigmoid()
    if weights is not None:
        probabilities, targets = probabilities * weights, targets * weights
    overlap = 2 * probabilities @ targets.T
    return 1 - (overlap + 1) / (probabilities.sum(-1)[:, None] + targets.sum(-1)[None] + 1)


def pairwise_costs(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`pairwise_mask_cost` and `pairwise_dice_cost`; on a CPU with one exponential for both."""
    if not (is_readable(logits, targets, weights) and SAMPLED_POINTS.runs_on(logits.device)):
        return pairwise_mask_cost(logits, targets, weights), pairwise_dice_cost(logits, targets, weights)
    probabilities, probability_sums, softplus_sums = sigmoid_sums(logits, weights)
    targets = targets if weights is None else weights * targets
    count = logits.shape[-1] if weights is None else weights.sum().clamp(min=1)
    overlap = 2 * (probabilities @ targets.T)
    mask_cost = (softplus_sums[:, None] - logits @ targets.T) / count
    return mask_cost, 1 - (overlap + 1) / (probability_sums[:, None] + targets.sum(-1)[None] + 1)


class HungarianMatcher:
    """Assigns to each target of an image the query that costs least in total.

    Args:
        class_weight, mask_weight, dice_weight: weights of the three costs.
        num_points: uniform points at which masks are compared, the same for all pairs of an image.
    """

    def __init__(self, class_weight: float, mask_weight: float, dice_weight: float, num_points: int):
        if class_weight == mask_weight == dice_weight == 0:
            raise ValueError("class_weight, mask_weight and dice_weight are all 0: every match would cost the same.")
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.num_points = num_points

    @torch.no_grad()
    def cost(
        self,
        class_logits: Tensor,
        point_logits: Tensor,
        classes: Tensor,
        point_targets: Tensor,
        point_weights: Tensor | None = None,
    ) -> Tensor:
        """Cost of every pair of one prediction and one image.

        Args:
            class_logits: (Q, K+1). point_logits: (Q, R), the masks' logits at the points.
            classes: (N,). point_targets: (N, R) float32, the targets at the points.
            point_weights: (R,) float32, 0 or 1; all 1 by default.

        Returns:
            (Q, N) float32.
        """
        # Half-precision products would tie and overflow; the caller's autocast must not reach them.
        with torch.autocast(class_logits.device.type, enabled=False):
            mask_cost, dice_cost = pairwise_costs(point_logits.float(), point_targets, point_weights)
            class_cost = -class_logits.float().softmax(-1)[:, classes]
            return self.class_weight * class_cost + self.mask_weight * mask_cost + self.dice_weight * dice_cost


@torch.no_grad()
def assign(costs: list[list[Tensor]]) -> list[Matches]:
    """The cheapest assignments, with one copy from the device and one back for all of them.

    Args:
        costs: per prediction and image (Q, N).

    Returns:
        Per prediction and image (query indices, target indices).

    Raises:
        ValueError: a cost is not finite; the prediction and the image's index in the batch are named.
    """
    from scipy.optimize import linear_sum_assignment  # here, because inference needs no SciPy

    flat = [cost for prediction in costs for cost in prediction]
    device = flat[0].device
    on_host = torch.cat([cost.flatten() for cost in flat]).cpu().split([cost.numel() for cost in flat])
    pairs = []
    for i, (cost, values) in enumerate(zip(flat, on_host, strict=True)):
        _check_finite(values, *divmod(i, len(costs[0])), len(costs))
        pairs.append(torch.stack([torch.from_numpy(x) for x in linear_sum_assignment(values.view_as(cost).numpy())]))
    on_device = torch.cat(pairs, 1).to(device).split([pair.shape[1] for pair in pairs], dim=1)
    matches = [(queries, targets) for queries, targets in on_device]
    return [matches[i : i + len(costs[0])] for i in range(0, len(matches), len(costs[0]))]


def _check_finite(cost: Tensor, prediction: int, image: int, num_predictions: int):
    if not cost.isfinite().all():
        raise ValueError(
            f"The matching cost of image {image} in the batch is not finite in prediction {prediction} of "
            f"0..{num_predictions - 1} (0 is that of the learned queries): its class or mask logits are NaN or "
            "infinite. Lower the learning rate, clip gradients (the paper: full-model norm 0.01) or look for bad "
            "pixels."
        )
