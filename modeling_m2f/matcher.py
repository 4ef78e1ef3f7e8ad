"""Bipartite matching between queries and targets (Carion et al., DETR, ECCV 2020; Cheng et al. 2022, section 3.3)."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from m2f.modeling_m2f.point_sampling import sample_at_points


def pairwise_mask_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid cross-entropy of every query with every target, averaged over the points.

    Args:
        logits: (Q, R). targets: (N, R) in [0, 1].

    Returns:
        (Q, N): mean_r softplus(logit) - target * logit, which is -t log p - (1 - t) log(1 - p).
    """
    return (softplus(logits).sum(-1, keepdim=True) - logits @ targets.T) / logits.shape[-1]


def pairwise_dice_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 p.t + 1) / (sum p + sum t + 1) of every query (Q, R) with every target (N, R): (Q, N) in [0, 1)."""
    probabilities = logits.sigmoid()
    overlap = 2 * probabilities @ targets.T
    return 1 - (overlap + 1) / (probabilities.sum(-1)[:, None] + targets.sum(-1)[None] + 1)


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
    def cost(self, class_logits: Tensor, mask_logits: Tensor, classes: Tensor, masks: Tensor) -> Tensor:
        """(Q, N) float32 cost of one image.

        class_logits (Q, K+1), mask_logits (Q, h, w), classes (N,), masks (N, H, W).
        """
        points = torch.rand(1, self.num_points, 2, device=mask_logits.device)
        logits = sample_at_points(mask_logits[None], points)[0]
        targets = sample_at_points(masks[None], points)[0]
        # Half-precision products would tie and overflow; the caller's autocast must not reach them.
        with torch.autocast(mask_logits.device.type, enabled=False):
            return (
                self.class_weight * -class_logits.float().softmax(-1)[:, classes]
                + self.mask_weight * pairwise_mask_cost(logits, targets)
                + self.dice_weight * pairwise_dice_cost(logits, targets)
            )

    @torch.no_grad()
    def match(
        self, class_logits: Tensor, mask_logits: Tensor, classes: list[Tensor], masks: list[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """Match one prediction of a batch.

        Args:
            class_logits: (B, Q, K+1). mask_logits: (B, Q, h, w).
            classes: per image (N,) int64. masks: per image (N, H, W), H and W in the same ratio to h and w.

        Returns:
            Per image (query indices, target indices), min(Q, N) of each, int64 on the logits' device.

        Raises:
            ValueError: a cost is not finite; the image's index in the batch is named.
        """
        images = zip(class_logits, mask_logits, classes, masks, strict=True)
        return [_assign(self.cost(*image), index) for index, image in enumerate(images)]


def _assign(cost: Tensor, image: int) -> tuple[Tensor, Tensor]:
    from scipy.optimize import linear_sum_assignment  # here, because inference needs no SciPy

    matrix = cost.cpu()
    if not matrix.isfinite().all():
        raise ValueError(
            f"The matching cost of image {image} in the batch is not finite: its predictions are NaN or infinite. "
            "Lower the learning rate, clip gradients (the paper: full-model norm 0.01) or look for bad pixels."
        )
    queries, targets = linear_sum_assignment(matrix.numpy())
    return torch.as_tensor(queries, device=cost.device), torch.as_tensor(targets, device=cost.device)
