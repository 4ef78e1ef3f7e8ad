"""Costs of pairs, and which query answers for which target."""

import itertools

import pytest
import torch
from criterion_cases import CANVAS, make_criterion, make_targets, random_predictions
from small_models import random_targets
from torch.nn.functional import binary_cross_entropy_with_logits

from m2f.modeling_m2f.matcher import HungarianMatcher, assign, pairwise_dice_cost, pairwise_mask_cost

pytest_plugins = ("kernel_fixtures",)


def test_pairwise_costs_are_the_losses_of_each_pair():
    logits, targets = torch.randn(4, 50, dtype=torch.float64), torch.rand(3, 50, dtype=torch.float64)
    mask_cost, dice_cost = pairwise_mask_cost(logits, targets), pairwise_dice_cost(logits, targets)
    for q, n in itertools.product(range(4), range(3)):
        expected = binary_cross_entropy_with_logits(logits[q], targets[n])
        torch.testing.assert_close(mask_cost[q, n], expected)
        p = logits[q].sigmoid()
        expected = 1 - (2 * (p * targets[n]).sum() + 1) / (p.sum() + targets[n].sum() + 1)
        torch.testing.assert_close(dice_cost[q, n], expected)


def test_the_matcher_finds_the_cheapest_assignment():
    """Against all assignments."""
    torch.manual_seed(3)
    logits, targets = torch.randn(5, 200), (torch.rand(3, 200) > 0.5).float()
    cost = HungarianMatcher(2.0, 5.0, 5.0, 200).cost(torch.randn(5, 4), logits, torch.tensor([0, 2, 1]), targets)
    (((queries, chosen),),) = assign([[cost]])
    best = min(sum(cost[q, n] for n, q in enumerate(p)) for p in itertools.permutations(range(5), 3))
    torch.testing.assert_close(cost[queries, chosen].sum(), best)


def test_every_prediction_and_image_gets_its_own_assignment():
    costs = [[torch.rand(4, n) for n in (2, 0, 6)] for _ in range(3)]
    for prediction, matches in zip(costs, assign(costs), strict=True):
        for cost, (queries, chosen) in zip(prediction, matches, strict=True):
            (((alone, alone_chosen),),) = assign([[cost]])
            assert torch.equal(queries, alone) and torch.equal(chosen, alone_chosen)
            assert len(queries) == min(cost.shape)


@pytest.mark.parametrize("disturbed", [0, 1])
def test_reference_row_33_costs_that_are_not_finite_are_an_error_with_image_and_prediction(disturbed):
    """transformers replaces them, and trains on with a loss of NaN."""
    predictions = [x.detach() for x in random_predictions()]
    predictions[disturbed][2, 1, 3] = float("nan")
    masks, classes = random_targets([CANVAS] * 2, [2, 1])
    with pytest.raises(ValueError, match=r"image 1 in the batch is not finite in prediction 2 of 0\.\.2"):
        make_criterion()(*predictions, make_targets(masks, classes))


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(ValueError, match="all 0"):
        HungarianMatcher(0, 0, 0, 10)
