"""Mask and dice losses at points, and their gradients."""

import pytest
import torch
from criterion_cases import CANVAS, NUM_QUERIES, gradients, make_criterion, make_targets, random_predictions
from small_models import random_targets
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils._python_dispatch import TorchDispatchMode

from m2f.modeling_m2f.mask_losses import dice_loss, mask_loss
from m2f.modeling_m2f.matcher import pairwise_dice_cost, pairwise_mask_cost
from m2f.modeling_m2f.prepare_targets import NOTHING

pytest_plugins = ("kernel_fixtures",)


class LargestTensor(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(result):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.numel())
        return result


def test_no_mask_of_an_unmatched_query_is_made():
    """One target: nothing as large as the masks of the 8 queries ever exists."""
    predictions = random_predictions(batch=1, channels=4)
    targets = make_targets(torch.ones(1, 1, *CANVAS, dtype=torch.uint8), torch.tensor([[2]]))
    with LargestTensor() as largest:
        make_criterion(16)(*predictions, targets)[0].backward()
    # The largest are the features and their gradient, and the class logits and points are smaller.
    assert 4 * 16 * 24 <= largest.elements < NUM_QUERIES * 16 * 24


def test_losses_of_each_mask_are_their_formulas():
    logits, targets = torch.randn(3, 50, dtype=torch.float64), torch.rand(3, 50, dtype=torch.float64)
    for i, (x, t) in enumerate(zip(logits, targets, strict=True)):
        torch.testing.assert_close(mask_loss(logits, targets)[i], binary_cross_entropy_with_logits(x, t))
        p = x.sigmoid()
        expected = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
        torch.testing.assert_close(dice_loss(logits, targets)[i], expected)


@pytest.mark.parametrize("kept", [50, 20, 0])
def test_points_of_weight_zero_count_like_absent_ones(kept):
    logits, targets = torch.randn(4, 50, dtype=torch.float64), torch.rand(3, 50, dtype=torch.float64)
    weights = (torch.arange(50) < kept).double()
    for cost in (pairwise_mask_cost, pairwise_dice_cost):
        expected = cost(logits[:, :kept], targets[:, :kept]) if kept else torch.zeros(4, 3, dtype=torch.float64)
        torch.testing.assert_close(cost(logits, targets, weights), expected)
    for loss in (mask_loss, dice_loss):
        expected = loss(logits[:3, :kept], targets[:, :kept]) if kept else torch.zeros(3, dtype=torch.float64)
        torch.testing.assert_close(loss(logits[:3], targets, weights.expand(3, -1)), expected)


def test_gradients_follow_the_factor_of_the_loss_and_repeat():
    predictions = random_predictions()
    masks, classes = random_targets([CANVAS] * 2, [2, 3])
    total, _ = make_criterion()(*predictions, make_targets(masks, classes))
    once, again = (torch.autograd.grad(factor * total, predictions, retain_graph=True) for factor in (1, 3))
    for first, second in zip(once, again, strict=True):
        torch.testing.assert_close(3 * first, second)


def test_without_gradients_the_loss_is_the_same():
    predictions = random_predictions()
    masks, classes = random_targets([CANVAS] * 2, [2, 3])
    totals = []
    for enabled in (True, False):
        torch.manual_seed(0)
        with torch.set_grad_enabled(enabled):
            totals.append(make_criterion()(*predictions, make_targets(masks, classes))[0])
    assert torch.equal(*totals) and not totals[1].requires_grad


@pytest.mark.parametrize("maps", [False, True])
def test_reference_row_43_empty_targets_give_mask_terms_of_exactly_zero(maps):
    predictions = random_predictions(1)
    masks, classes = random_targets([CANVAS] * 2, [0, 0])
    if maps:
        masks = [torch.full((1, *CANVAS), NOTHING, dtype=torch.int32)] * 2
    total, terms = make_criterion()(*predictions, make_targets(masks, classes))
    assert terms["loss_mask"] == terms["loss_dice"] == 0
    class_gradient, *mask_gradients = gradients((total, terms), predictions)
    assert class_gradient.abs().sum() > 0 and all(gradient.abs().sum() == 0 for gradient in mask_gradients)
