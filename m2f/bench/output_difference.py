"""How far the outputs of forms that are compared lie apart: who is fast and wrong wins nothing."""

from collections.abc import Mapping
from typing import Any

import torch

from m2f.bench.compared_models import Form

# Of the largest logit. Rounding alone moves logits by 1e-6 of it, and by more where it turns a cell of an attention
# mask, which is a sign.
TOLERANCE = 1e-2


def output_differences(
    forms: Mapping[str, Form], reference: Form, pixel_values: torch.Tensor
) -> dict[str, dict[str, float]]:
    """By form the largest differences of "class" and "mask" logits from the reference's, each as a share of the
    reference's largest.

    Args:
        forms: which give `class_queries_logits` and `masks_queries_logits` for (B, 3, H, W).

    Raises:
        ValueError: a share is above `TOLERANCE`, or not finite.
    """
    expected = _logits(reference(pixel_values))
    found = {}
    for name, form in forms.items():
        outputs = _logits(form(pixel_values))
        found[name] = {kind: _share(logits, expected[kind]) for kind, logits in outputs.items()}
        for kind, share in found[name].items():
            if not share <= TOLERANCE:
                raise ValueError(
                    f"the {kind} logits of {name!r} differ from the reference's by {share:.1e} of the largest, and "
                    f"{TOLERANCE:g} is allowed: it does not compute the same, leave it out with --form"
                )
    return found


def _logits(outputs: Any) -> dict[str, torch.Tensor]:
    return {"class": outputs.class_queries_logits, "mask": outputs.masks_queries_logits}


def _share(actual: torch.Tensor, expected: torch.Tensor) -> float:
    if actual.shape != expected.shape:
        return float("inf")
    return ((actual - expected).abs().max() / expected.abs().max()).item()
