"""The loss from logits, under the names that transformers' Mask2Former has for it."""

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from m2f.modeling_m2f.criterion import Criterion
from m2f.modeling_m2f.mask_targets import MaskTargets
from m2f.modeling_m2f.pixel_values import round_up
from m2f.modeling_m2f.prepare_targets import prepare_targets

# Terms of the criterion -> their names in transformers' get_loss_dict.
TRANSFORMERS_TERMS = {"loss_ce": "loss_cross_entropy", "loss_mask": "loss_mask", "loss_dice": "loss_dice"}


class LossOfLogits:
    """Methods of a model that has these two."""

    criterion: Criterion
    config: Any  # `M2FConfig`; transformers' own class declares it

    @property
    def weight_dict(self) -> Mapping[str, float]:
        """Weights of the terms of `get_loss_dict`; they follow from the configuration and cannot be set here."""
        weights = self.criterion.loss_weights
        return MappingProxyType({TRANSFORMERS_TERMS[term]: weight for term, weight in weights.items()})

    def get_loss_dict(
        self,
        masks_queries_logits: Tensor,
        class_queries_logits: Tensor,
        mask_labels: Sequence[Tensor],
        class_labels: Sequence[Tensor],
        auxiliary_predictions: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms of the loss from logits, for code that is written for transformers' Mask2Former.

        `forward` does not call it: there no mask is kept. Other than `outputs.loss_dict` the terms have gradients,
        their weights, and transformers' names.

        Args:
            masks_queries_logits: (B, Q, h, w) of the last prediction. class_queries_logits: (B, Q, K+1).
            mask_labels, class_labels: as in `forward`; padding and all that is not labelled is background.
            auxiliary_predictions: the same logits of each earlier prediction, see `get_auxiliary_logits`; None
                compares the last one alone.

        Returns:
            "loss_cross_entropy", "loss_mask", "loss_dice", and with the suffix "_i" those of earlier prediction i.

        Raises:
            ValueError: labels do not fit, or a matching cost is not finite.
        """
        last = {"masks_queries_logits": masks_queries_logits, "class_queries_logits": class_queries_logits}
        predictions = [last, *(auxiliary_predictions or ())]
        terms = self.criterion.terms_of_logits(
            torch.stack([prediction["class_queries_logits"] for prediction in predictions]),
            [prediction["masks_queries_logits"] for prediction in predictions],
            self._targets_of_logits(masks_queries_logits, mask_labels, class_labels),
        )
        return {
            name + suffix: self.criterion.loss_weights[term] * terms[term][i]
            for i, suffix in enumerate(["", *(f"_{i}" for i in range(len(predictions) - 1))])
            for term, name in TRANSFORMERS_TERMS.items()
        }

    def get_loss(self, loss_dict: Mapping[str, Tensor]) -> Tensor:
        """The sum of the terms that `get_loss_dict` returns, a scalar.

        Raises:
            ValueError: they are those of `outputs.loss_dict`, unweighted and without gradients.
        """
        if not loss_dict or "loss_ce" in loss_dict:
            raise ValueError(
                f"get_loss sums what get_loss_dict returns, got {sorted(loss_dict)}; outputs.loss is the sum "
                "of outputs.loss_dict with its weights."
            )
        return functools.reduce(torch.add, loss_dict.values())

    def get_auxiliary_logits(self, classes: Tensor, output_masks: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """All predictions but the last, L x (B, Q, K+1) and L x (B, Q, h, w), as `outputs.auxiliary_logits`."""
        pairs = zip(classes[:-1], output_masks[:-1], strict=True)
        return [{"class_queries_logits": c, "masks_queries_logits": m} for c, m in pairs]

    def _targets_of_logits(self, masks: Tensor, mask_labels, class_labels) -> list[MaskTargets]:
        """With the labels on the canvas of the inputs that the logits were made from where their sizes say so; else,
        as in transformers, stretched over all of the logits."""
        sizes = [tuple(labels.shape[-2:]) for labels in mask_labels]
        given = tuple(max(lengths) for lengths in zip(*sizes, strict=True))
        padded = tuple(round_up(length) for length in given)
        covered = tuple(length * self.config.common_stride for length in masks.shape[-2:])
        return prepare_targets(
            mask_labels,
            class_labels,
            image_sizes=sizes,
            given_size=given,
            canvas=padded if padded == covered else given,
            padding_counts=True,
            num_classes=self.config.num_labels,
            num_queries=self.config.num_queries,
            device=masks.device,
        )
