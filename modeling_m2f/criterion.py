"""The training objective: matched queries learn a class and a mask, the others "no object".

Cheng et al. 2022, sections 3.3 and 4.1.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import initialization as init

from m2f.modeling_m2f.matcher import HungarianMatcher
from m2f.modeling_m2f.point_sampling import sample_at_points, uncertain_points


def mask_loss(logits: Tensor, targets: Tensor, num_masks: Tensor) -> Tensor:
    """Sum over masks of the mean cross-entropy over points, / num_masks; logits and targets (N, R)."""
    return binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1).sum() / num_masks


def dice_loss(logits: Tensor, targets: Tensor, num_masks: Tensor) -> Tensor:
    """Sum over masks of 1 - (2 p.t + 1) / (sum p + sum t + 1), / num_masks; logits and targets (N, R)."""
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities * targets).sum(-1)
    return (1 - (overlap + 1) / (probabilities.sum(-1) + targets.sum(-1) + 1)).sum() / num_masks


def count_masks(classes: list[Tensor], device: torch.device) -> Tensor:
    """Targets per process: their mean over all processes, at least 1. One reduction per step.

    transformers divides by the number of processes twice, and once per prediction.
    """
    count = torch.tensor(float(sum(len(c) for c in classes)), device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp(min=1)


class Criterion(nn.Module):
    """Matches each prediction with the targets and compares the two.

    Args:
        matcher: decides which query answers for which target.
        num_classes: K.
        no_object_weight: weight of class K, "no object", in the classification loss.
        num_points, oversample_ratio, importance_ratio: see `uncertain_points`.
        loss_weights: weight of each of "loss_ce", "loss_mask", "loss_dice" in the total.
    """

    def __init__(
        self,
        matcher: HungarianMatcher,
        num_classes: int,
        no_object_weight: float,
        num_points: int,
        oversample_ratio: float,
        importance_ratio: float,
        loss_weights: dict[str, float],
    ):
        super().__init__()
        self.matcher = matcher
        self.no_object_weight = no_object_weight
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_ratio = importance_ratio
        self.loss_weights = loss_weights
        self.register_buffer("empty_weight", torch.ones(num_classes + 1))
        self.init_original_weights()

    def init_original_weights(self):
        weight = torch.ones_like(self.empty_weight)
        weight[-1] = self.no_object_weight
        init.copy_(self.empty_weight, weight)

    @torch.compiler.disable
    def forward(
        self, predictions: list[tuple[Tensor, Tensor]], classes: list[Tensor], masks: list[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare.

        Args:
            predictions: (class logits (B, Q, K+1), mask logits (B, Q, h, w)) of each prediction, the last one last.
            classes: per image (N,) int64 in [0, K).
            masks: per image (N, H, W), bool, uint8 or floating, in [0, 1], covering what the logits cover.

        Returns:
            The weighted sum, and each term unweighted: "loss_ce", "loss_mask", "loss_dice" of the last prediction,
            with the suffix "_i" those of earlier prediction i. Without any target the mask terms are 0 and stay
            attached to the graph, so that every parameter gets a gradient on every process.
        """
        num_masks = count_masks(classes, predictions[-1][0].device)
        suffixes = [f"_{i}" for i in range(len(predictions) - 1)] + [""]
        terms = {}
        for suffix, (class_logits, mask_logits) in zip(suffixes[::-1], predictions[::-1], strict=True):
            # In float32, whatever the model's type; autocast leaves what follows in it.
            losses = self._losses(class_logits.float(), mask_logits.float(), classes, masks, num_masks)
            terms.update({name + suffix: loss for name, loss in losses.items()})
        total = sum(self.loss_weights[_base_name(name)] * loss for name, loss in terms.items())
        return total, terms

    def _losses(
        self, class_logits: Tensor, mask_logits: Tensor, classes: list[Tensor], masks: list[Tensor], num_masks: Tensor
    ) -> dict[str, Tensor]:
        matches = self.matcher.match(class_logits, mask_logits, classes, masks)
        matched_logits = torch.cat(
            [logits[queries] for logits, (queries, _) in zip(mask_logits, matches, strict=True)]
        )
        matched_masks = [image[targets] for image, (_, targets) in zip(masks, matches, strict=True)]
        logits, targets = self._at_points(matched_logits, matched_masks)
        return {
            "loss_ce": self._class_loss(class_logits, classes, matches),
            "loss_mask": mask_loss(logits, targets, num_masks),
            "loss_dice": dice_loss(logits, targets, num_masks),
        }

    def _class_loss(self, class_logits: Tensor, classes: list[Tensor], matches: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Cross-entropy over all queries, averaged with the classes' weights."""
        no_object = class_logits.shape[-1] - 1
        wanted = torch.full(class_logits.shape[:2], no_object, device=class_logits.device)
        for row, image_classes, (queries, targets) in zip(wanted, classes, matches, strict=True):
            row[queries] = image_classes[targets]
        return cross_entropy(class_logits.transpose(1, 2), wanted, self.empty_weight.float())

    def _at_points(self, logits: Tensor, masks: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Matched logits (N, h, w) and their masks, image by image, both at (N, num_points) points."""
        points = uncertain_points(logits, self.num_points, self.oversample_ratio, self.importance_ratio)
        counts = [len(image) for image in masks]
        targets = [
            sample_at_points(image[:, None], image_points).squeeze(1)
            for image, image_points in zip(masks, points.split(counts), strict=True)
        ]
        return sample_at_points(logits[:, None], points).squeeze(1), torch.cat(targets)


def _base_name(term: str) -> str:
    return "_".join(term.split("_")[:2])
