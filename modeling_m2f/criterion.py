"""The training objective: matched queries learn a class and a mask, the others "no object".

Cheng et al. 2022, sections 3.3 and 4.1. No mask of an unmatched query is made, and none at all is kept.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import initialization as init
from transformers.utils import logging

from m2f.modeling_m2f.loss_normalizer import (
    Normalizer,
    class_weight_of_counts,
    count_step,
    of_counted_step,
    of_similar_batches,
    of_this_step,
)
from m2f.modeling_m2f.mask_losses import losses_of_masks, matched_mask_losses
from m2f.modeling_m2f.mask_targets import MaskTargets
from m2f.modeling_m2f.matcher import HungarianMatcher, Matches, assign
from m2f.modeling_m2f.point_sampling import PointChoice, sample_features, uniform_points
from m2f.modeling_m2f.untransformed import untransformed, values_of

logger = logging.get_logger(__name__)

# Logits at the matcher's points that exist at once.
MATCHED_ELEMENTS = 2**22

TERMS = ("loss_ce", "loss_mask", "loss_dice")


class Criterion(nn.Module):
    """Matches each prediction with the targets and compares the two.

    Args:
        matcher: decides which query answers for which target.
        num_classes: K.
        no_object_weight: weight of class K, "no object", in the classification loss.
        points: how many points a matched mask is compared at, and which.
        loss_weights: weight of each of "loss_ce", "loss_mask", "loss_dice" in the total.
        class_weights: of classes 0 to K-1 in the classification loss; all 1 by default.

    Attributes:
        empty_weight: (K+1,), the weights of all classes, "no object" last. What the loss and its normalisation use.
    """

    empty_weight: Tensor

    def __init__(
        self,
        matcher: HungarianMatcher,
        num_classes: int,
        no_object_weight: float,
        points: PointChoice,
        loss_weights: dict[str, float],
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__()
        self.matcher = matcher
        self.no_object_weight = no_object_weight
        self.class_weights = class_weights
        self.points = points
        self.loss_weights = loss_weights
        self.register_buffer("empty_weight", torch.ones(num_classes + 1))
        self.init_original_weights()

    def init_original_weights(self):
        init.copy_(self.empty_weight, self._configured_weight())

    def _configured_weight(self) -> Tensor:
        weight = torch.ones_like(self.empty_weight)
        if self.class_weights is not None:
            weight[:-1] = torch.tensor(self.class_weights)
        weight[-1] = self.no_object_weight
        return weight

    @torch.no_grad()
    def set_class_weights(self, class_weights: Sequence[float] | None):
        """Weights of classes 0 to K-1 in the classification loss from now on; None: all 1."""
        self.class_weights = class_weights
        self.empty_weight.copy_(self._configured_weight())

    @torch.no_grad()
    def settle_class_weights(self) -> Sequence[float] | None:
        """After the weights of a checkpoint were loaded, `empty_weight` among them: the weights of classes 0 to K-1.

        The configuration decides. Where it names no class weights, those of the checkpoint are taken, which somebody
        wrote into the buffer by hand, as transformers needs it. Returns them, or None where they are all 1.
        """
        loaded, class_weights = self.empty_weight.clone(), self.class_weights
        if class_weights is None and (loaded[:-1] != 1).any():
            class_weights = loaded[:-1].tolist()
            logger.warning(
                "The checkpoint's criterion.empty_weight has class weights that its configuration does not name; they "
                "are used, and named as class_weights from now on."
            )
        self.set_class_weights(class_weights)
        if self.empty_weight[-1] != loaded[-1]:
            logger.warning(
                f"The checkpoint has {loaded[-1]:g} as weight of the class no object (criterion.empty_weight), its "
                f"configuration {self.no_object_weight:g} (no_object_weight), which is used."
            )
        return class_weights

    @torch.no_grad()
    def count(self, classes: Sequence[Tensor], num_queries: int) -> Tensor:
        """What the targets of some images contribute to the totals of their step, see `loss_normalizer.count_step`."""
        return count_step(classes, num_queries, self.empty_weight.float())

    @torch.compiler.disable(reason="matching is not traced; loss_operator.py has it as an operator where it can")
    def forward(
        self,
        class_logits: Tensor,
        mask_embeddings: Tensor,
        mask_features: Tensor,
        targets: list[MaskTargets],
        num_items_in_batch: Tensor | int | None = None,
        num_images_in_batch: Tensor | int | None = None,
        class_weight_in_batch: Tensor | float | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare.

        Args:
            class_logits: (L, B, Q, K+1) of L predictions, the last one last.
            mask_embeddings: (L, B, Q, C). mask_features: (B, C, h, w). A mask is their product.
            targets: per image.
            num_items_in_batch, num_images_in_batch, class_weight_in_batch: targets, images and class weights of all
                queries in the whole optimizer step, on all processes; by default this batch on all processes is the
                step. See `loss_normalizer`.

        Returns:
            The weighted sum, and each term unweighted and without gradient: "loss_ce", "loss_mask", "loss_dice" of the
            last prediction, with the suffix "_i" those of earlier prediction i.
        """
        counts = (num_items_in_batch, num_images_in_batch, class_weight_in_batch)
        total, terms = self.compare(class_logits, mask_embeddings, mask_features, targets, *counts)
        return total, named_terms(terms)

    def compare(
        self,
        class_logits: Tensor,
        mask_embeddings: Tensor,
        mask_features: Tensor,
        targets: list[MaskTargets],
        *counts: Any,
    ) -> tuple[Tensor, Tensor]:
        """`forward` with the terms as (3, L), see `named_terms`. counts: its last three arguments."""
        # In float32, whatever the model's type.
        with torch.autocast(class_logits.device.type, enabled=False):
            class_logits = class_logits.float()
            matches = self._match(class_logits, mask_embeddings, mask_features, targets)
            class_losses, class_weight = self._class_losses(class_logits, targets, matches)
            normalizer = self._normalizer(targets, class_logits.shape[2], class_weight, *counts)
            class_losses = class_losses / normalizer.class_weight
            mask_weights = class_losses.new_tensor([self.loss_weights[name] for name in TERMS[1:]])
            mask_total, mask_sums = matched_mask_losses(
                mask_embeddings, mask_features, targets, matches, self.points, mask_weights / normalizer.num_masks
            )
            total = self.loss_weights["loss_ce"] * class_losses.sum() + mask_total
        return total, torch.cat([class_losses.detach()[None], mask_sums / normalizer.num_masks])

    def terms_of_logits(
        self, class_logits: Tensor, mask_logits: list[Tensor], targets: list[MaskTargets]
    ) -> dict[str, Tensor]:
        """The terms from masks that were made already, by autograd; `forward` never makes them.

        Args:
            class_logits: (L, B, Q, K+1) of L predictions. mask_logits: (B, Q, h, w) of each.
            targets: per image.

        Returns:
            "loss_ce", "loss_mask", "loss_dice": (L,) each, unweighted and with gradients. Each prediction is matched
            at points of its own, as in the original; the step is this batch on all processes.
        """
        with torch.autocast(class_logits.device.type, enabled=False):
            class_logits = class_logits.float()
            # A mask's logits are the product of these features with a query of its own.
            one_hot = torch.eye(class_logits.shape[2], device=class_logits.device).expand(1, len(targets), -1, -1)
            matches, mask_sums = [], []
            for classes, masks in zip(class_logits, mask_logits, strict=True):
                matches += self._match(classes[None], one_hot, masks.detach(), targets)
                mask_sums.append(losses_of_masks(masks, targets, matches[-1], self.points))
            class_losses, class_weight = self._class_losses(class_logits, targets, matches)
            normalizer = self._normalizer(targets, class_logits.shape[2], class_weight, None, None, None)
            mask_losses = torch.stack(mask_sums, 1) / normalizer.num_masks
        return dict(zip(TERMS, (class_losses / normalizer.class_weight, *mask_losses), strict=True))

    @torch.no_grad()
    def _match(
        self, class_logits: Tensor, embeddings: Tensor, features: Tensor, targets: list[MaskTargets]
    ) -> list[Matches]:
        """Per prediction and image, from mask logits at the matcher's points alone."""
        if not targets:
            return [[] for _ in class_logits]
        class_logits, embeddings, features = values_of((class_logits, embeddings, features))
        with untransformed():
            costs = [
                self._image_costs(class_logits[:, image], embeddings[:, image], features[image], image_targets)
                for image, image_targets in enumerate(targets)
            ]
            return assign([list(prediction) for prediction in zip(*costs, strict=True)])

    def _image_costs(
        self, class_logits: Tensor, embeddings: Tensor, features: Tensor, targets: MaskTargets
    ) -> list[Tensor]:
        """(Q, N) of each prediction of one image, from (L, Q, K+1), (L, Q, C) and (C, h, w).

        All predictions are compared at the same points; the original draws new ones for each (departure: sampling the
        features takes longer than all else, and what each prediction's costs are expected to be does not change).
        """
        if not len(targets):
            return list(class_logits[..., :0])
        points = uniform_points(1, self.matcher.num_points, features.device)[0]
        # The features are sampled, not the masks, which are linear in them.
        sampled = sample_features(features, points)
        wanted, weights = targets.at_shared_points(points), targets.weights(points)
        costs = []
        at_once = max(1, MATCHED_ELEMENTS // (class_logits.shape[1] * len(points)))
        for logits, queries in zip(class_logits.split(at_once), embeddings.split(at_once), strict=True):
            point_logits = queries.float().flatten(0, 1) @ sampled
            cost = self.matcher.cost(logits.flatten(0, 1), point_logits, targets.classes, wanted, weights)
            costs += cost.unflatten(0, logits.shape[:2])
        return costs

    def _class_losses(
        self, class_logits: Tensor, targets: list[MaskTargets], matches: list[Matches]
    ) -> tuple[Tensor, Tensor]:
        """Weighted cross-entropy summed over all queries of the batch, and the summed weights, (L,) each."""
        wanted = torch.full(class_logits.shape[:3], class_logits.shape[-1] - 1, device=class_logits.device)
        for prediction, images in zip(wanted, matches, strict=True):
            for row, image_targets, (queries, chosen) in zip(prediction, targets, images, strict=True):
                row[queries] = image_targets.classes[chosen]
        weight = self.empty_weight.float()
        losses = cross_entropy(class_logits.flatten(0, 2), wanted.flatten(), weight, reduction="none")
        return losses.view(wanted.shape).sum((1, 2)), weight[wanted].sum((1, 2))

    def _normalizer(
        self,
        targets: list[MaskTargets],
        num_queries: int,
        class_weight: Tensor,
        num_items_in_batch: Tensor | int | None,
        num_images_in_batch: Tensor | int | None,
        class_weight_in_batch: Tensor | float | None,
    ) -> Normalizer:
        num_masks = sum(len(image) for image in targets)
        if num_items_in_batch is None:
            # Processes need not evaluate equally many batches.
            return of_this_step(num_masks, class_weight, reduce=self.training)
        if class_weight_in_batch is None and num_images_in_batch is not None:
            class_weight_in_batch = class_weight_of_counts(
                num_items_in_batch, num_images_in_batch, num_queries, self.empty_weight.float()
            )
        if class_weight_in_batch is not None:
            return of_counted_step(num_items_in_batch, class_weight_in_batch, like=class_weight)
        self._warn_if_weights_are_unknown(num_masks, num_items_in_batch)
        return of_similar_batches(num_masks, class_weight, num_items_in_batch)

    def _warn_if_weights_are_unknown(self, num_masks: int, num_items_in_batch: Tensor | int):
        weight = self.empty_weight[:-1]
        if (weight != weight[0]).any() and float(num_items_in_batch) != num_masks:
            logger.warning_once(
                "The classes have different weights, and of the whole step only the number of targets is known "
                "(num_items_in_batch): the other batches are taken to have as much weight for each target as this "
                "one, so that accumulated batches differ from one batch of all. M2FTrainer and `m2f train` are exact; "
                "so is a loop that gives the model's count_targets()."
            )


def named_terms(terms: Tensor) -> dict[str, Tensor]:
    """(3, L), a row for each of `TERMS` -> the names that `Criterion.forward` returns, the last prediction first."""
    last = terms.shape[1] - 1
    suffixes = {last: "", **{i: f"_{i}" for i in range(last)}}
    return {name + suffix: term[i] for i, suffix in suffixes.items() for name, term in zip(TERMS, terms, strict=True)}
