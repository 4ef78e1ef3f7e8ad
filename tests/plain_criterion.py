"""The training objective written down plainly: every mask of every prediction in full, and autograd.

The truth that the lean criterion is compared with. It draws its points by the same function in the same order: the
matcher's first, image by image, then those of the matched masks, image by image and prediction by prediction.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, grid_sample

from m2f.modeling_m2f.point_sampling import uniform_points

WEIGHTS = {"loss_ce": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}


def at_points(maps: Tensor, points: Tensor) -> Tensor:
    """(N, H, W) and (N, R, 2) -> (N, R)."""
    return grid_sample(maps[:, None].float(), 2 * points[:, :, None] - 1, align_corners=False).flatten(1)


def mask_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(N, R) each -> cross-entropy and dice loss, (N,) each (Cheng et al. 2022, section 3.3)."""
    p = logits.sigmoid()
    dice = 1 - (2 * (p * targets).sum(1) + 1) / (p.sum(1) + targets.sum(1) + 1)
    return binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1), dice


def match(class_logits: Tensor, logits: Tensor, classes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of one image; logits (Q, R) and targets (N, R) at the same points."""
    cost = torch.empty(len(logits), len(targets))
    for q in range(len(logits)):
        for n in range(len(targets)):
            cross_entropies, dices = mask_losses(logits[q : q + 1], targets[n : n + 1])
            probability = class_logits[q].softmax(-1)[classes[n]]
            cost[q, n] = 5 * cross_entropies + 5 * dices - 2 * probability
    queries, chosen = linear_sum_assignment(cost.numpy())
    return torch.from_numpy(queries), torch.from_numpy(chosen)


def points_of(logits: Tensor, num_points: int) -> Tensor:
    """(N, h, w) -> (N, num_points, 2): the 3/4 with the least |logit| of three times as many, and 1/4 anywhere."""
    drawn = uniform_points(len(logits), 3 * num_points + num_points - 3 * num_points // 4, logits.device)
    candidates, others = drawn[:, : 3 * num_points], drawn[:, 3 * num_points :]
    nearest = at_points(logits, candidates).abs().argsort(1)[:, : 3 * num_points // 4]
    return torch.cat([candidates.gather(1, nearest[..., None].expand(-1, -1, 2)), others], 1)


def plain_criterion(
    class_logits: Tensor, embeddings: Tensor, features: Tensor, classes: list[Tensor], masks: list[Tensor], num_points
) -> tuple[Tensor, dict[str, Tensor]]:
    """(L, B, Q, K+1), (L, B, Q, C), (B, C, h, w), per image (N,) and (N, H, W) -> total and terms."""
    mask_logits = torch.einsum("lbqc,bchw->lbqhw", embeddings, features)
    num_predictions, num_classes = len(class_logits), class_logits.shape[-1] - 1
    matches = {}
    with torch.no_grad():
        for b, (image_classes, image_masks) in enumerate(zip(classes, masks, strict=True)):
            if len(image_classes):
                points = uniform_points(1, num_points, features.device)
                for i in range(num_predictions):
                    logits = at_points(mask_logits[i, b], points.expand(mask_logits.shape[2], -1, -1))
                    targets = at_points(image_masks, points.expand(len(image_masks), -1, -1))
                    matches[i, b] = match(class_logits[i, b], logits, image_classes, targets)
    wanted = torch.full(class_logits.shape[:3], num_classes)
    sums = torch.zeros(2, num_predictions)
    for b, (image_classes, image_masks) in enumerate(zip(classes, masks, strict=True)):
        for i in range(num_predictions):
            if len(image_classes):
                queries, chosen = matches[i, b]
                wanted[i, b, queries] = image_classes[chosen]
                logits = mask_logits[i, b, queries]
                with torch.no_grad():
                    points = points_of(logits, num_points)
                losses = mask_losses(at_points(logits, points), at_points(image_masks[chosen], points))
                sums = sums.index_add(1, torch.tensor([i]), torch.stack([x.sum() for x in losses])[:, None])
    num_masks = max(sum(len(c) for c in classes), 1)
    weight = torch.tensor([1.0] * num_classes + [0.1])
    terms = {}
    for i in range(num_predictions):
        suffix = "" if i == num_predictions - 1 else f"_{i}"
        terms["loss_ce" + suffix] = cross_entropy(class_logits[i].flatten(0, 1), wanted[i].flatten(), weight)
        terms["loss_mask" + suffix], terms["loss_dice" + suffix] = sums[:, i] / num_masks
    return sum(WEIGHTS["_".join(name.split("_")[:2])] * term for name, term in terms.items()), terms
