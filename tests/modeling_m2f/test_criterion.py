import itertools

import pytest
import torch
from small_models import random_targets, small_model
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from m2f.modeling_m2f.criterion import Criterion, count_masks, dice_loss, mask_loss
from m2f.modeling_m2f.matcher import HungarianMatcher, pairwise_dice_cost, pairwise_mask_cost
from m2f.modeling_m2f.point_sampling import sample_at_points, uncertain_points

WEIGHTS = {"loss_ce": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}


def make_criterion(num_points: int = 64, num_classes: int = 5) -> Criterion:
    matcher = HungarianMatcher(2.0, 5.0, 5.0, num_points)
    return Criterion(matcher, num_classes, 0.1, num_points, 3.0, 0.75, WEIGHTS)


def test_pairwise_costs_are_the_losses_of_each_pair():
    logits, targets = torch.randn(4, 50, dtype=torch.float64), torch.rand(3, 50, dtype=torch.float64)
    mask_cost, dice_cost = pairwise_mask_cost(logits, targets), pairwise_dice_cost(logits, targets)
    for q, n in itertools.product(range(4), range(3)):
        expected = binary_cross_entropy_with_logits(logits[q], targets[n])
        torch.testing.assert_close(mask_cost[q, n], expected)
        p = logits[q].sigmoid()
        expected = 1 - (2 * (p * targets[n]).sum() + 1) / (p.sum() + targets[n].sum() + 1)
        torch.testing.assert_close(dice_cost[q, n], expected)


def test_losses_are_sums_over_masks_of_their_formulas():
    logits, targets = torch.randn(3, 50, dtype=torch.float64), torch.rand(3, 50, dtype=torch.float64)
    num_masks = torch.tensor(7.0, dtype=torch.float64)
    expected_mask = sum(binary_cross_entropy_with_logits(*pair) for pair in zip(logits, targets, strict=True)) / 7
    torch.testing.assert_close(mask_loss(logits, targets, num_masks), expected_mask)
    p = logits.sigmoid()
    expected_dice = (
        sum(1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for a, b in zip(p, targets, strict=True)) / 7
    )
    torch.testing.assert_close(dice_loss(logits, targets, num_masks), expected_dice)


def test_points_at_cell_centres_read_the_cells():
    maps = torch.rand(2, 3, 4, 5)
    y, x = torch.meshgrid((torch.arange(4) + 0.5) / 4, (torch.arange(5) + 0.5) / 5, indexing="ij")
    points = torch.stack([x, y], -1).view(1, 20, 2)
    torch.testing.assert_close(sample_at_points(maps, points), maps.flatten(2), atol=1e-5, rtol=1e-5)


def test_points_are_undecided_ones_and_uniform_ones():
    """Of 100 points, 75 lie where |logit| is least among 300 candidates, 25 anywhere."""
    logits = torch.linspace(-10, 10, 64).expand(1, 64, 64)
    torch.manual_seed(0)
    points = uncertain_points(logits, 100, 3.0, 0.75)
    assert points.shape == (1, 100, 2) and 0 <= points.min() and points.max() < 1
    distance = (points[0, :, 0] - 0.5).abs()
    # The 75 nearest of 300 uniform points lie within 1/8 of the middle, give or take 4 standard deviations.
    assert distance[:75].max() < 0.125 + 4 * 0.0125 and distance[75:].max() > 0.25


def test_the_matcher_finds_the_cheapest_assignment():
    """Against all assignments, for costs computed with the same points."""
    matcher = HungarianMatcher(2.0, 5.0, 5.0, 200)
    class_logits, mask_logits = torch.randn(1, 5, 4), torch.randn(1, 5, 16, 16)
    masks, classes = random_targets([(64, 64)], [3], num_labels=3)
    torch.manual_seed(3)
    cost = matcher.cost(class_logits[0], mask_logits[0], classes[0], masks[0])
    torch.manual_seed(3)
    ((queries, targets),) = matcher.match(class_logits, mask_logits, classes, masks)
    best = min(sum(cost[q, n] for n, q in enumerate(p)) for p in itertools.permutations(range(5), 3))
    torch.testing.assert_close(cost[queries, targets].sum(), best)


def test_reference_row_23_costs_are_float32_under_autocast():
    matcher = HungarianMatcher(2.0, 5.0, 5.0, 500)
    class_logits, mask_logits = torch.randn(5, 4), 3 * torch.randn(5, 16, 16)
    masks, classes = random_targets([(64, 64)], [3], num_labels=3)
    costs = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            costs.append(matcher.cost(class_logits, mask_logits, classes[0], masks[0]))
    assert torch.equal(*costs)


def test_reference_row_33_costs_that_are_not_finite_are_an_error_with_the_images_index():
    """transformers replaces them, and trains on with a loss of NaN."""
    masks, classes = random_targets([(64, 64)] * 2, [2, 1])
    class_logits, mask_logits = torch.randn(2, 8, 6), torch.randn(2, 8, 16, 16)
    for tensor in (class_logits, mask_logits):
        disturbed = tensor.clone()
        disturbed[1, 3] = float("nan")
        pair = (disturbed, mask_logits) if tensor is class_logits else (class_logits, disturbed)
        with pytest.raises(ValueError, match="image 1"):
            make_criterion()([pair], classes, masks)


def test_the_classification_loss_weighs_no_object_with_a_tenth():
    criterion = make_criterion()
    class_logits, mask_logits = torch.randn(1, 8, 6), torch.randn(1, 8, 16, 16)
    masks, classes = random_targets([(64, 64)], [2])
    matches = criterion.matcher.match(class_logits, mask_logits, classes, masks)
    (queries, targets) = matches[0]
    log_probability = class_logits[0].log_softmax(-1)
    total, weight = 0.0, 0.0
    for q in range(8):
        label = classes[0][targets[queries == q]].item() if (queries == q).any() else 5
        w = 0.1 if label == 5 else 1.0
        total, weight = total - w * log_probability[q, label], weight + w
    torch.testing.assert_close(criterion._class_loss(class_logits, classes, matches), total / weight)


def test_the_total_is_the_weighted_sum_of_the_terms():
    predictions = [(torch.randn(2, 8, 6), torch.randn(2, 8, 16, 16)) for _ in range(3)]
    masks, classes = random_targets([(64, 64)] * 2, [2, 3])
    total, terms = make_criterion()(predictions, classes, masks)
    assert set(terms) == {f"{name}{suffix}" for name in WEIGHTS for suffix in ("_0", "_1", "")}
    expected = sum(WEIGHTS[name] * terms[name + suffix] for name in WEIGHTS for suffix in ("_0", "_1", ""))
    torch.testing.assert_close(total, expected)


def test_reference_row_43_empty_targets_give_mask_terms_of_exactly_zero():
    class_logits = torch.randn(2, 8, 6, requires_grad=True)
    mask_logits = torch.randn(2, 8, 16, 16, requires_grad=True)
    masks, classes = random_targets([(64, 64)] * 2, [0, 0])
    total, terms = make_criterion()([(class_logits, mask_logits)], classes, masks)
    assert terms["loss_mask"] == terms["loss_dice"] == 0
    total.backward()
    assert mask_logits.grad.abs().sum() == 0 and class_logits.grad.abs().sum() > 0


def test_reference_row_30_masks_of_every_type_give_the_same_loss():
    prediction = (torch.randn(1, 8, 6), torch.randn(1, 8, 16, 16))
    masks, classes = random_targets([(64, 64)], [3])
    totals = []
    for dtype in (torch.float32, torch.uint8, torch.bool):
        torch.manual_seed(0)
        totals.append(make_criterion()([prediction], classes, [masks[0].to(dtype)])[0])
    assert totals[0] == totals[1] == totals[2]


def test_learning_brings_the_masks_to_the_targets():
    """Gradient descent on free logits ends in the targets: the terms pull the right way."""
    torch.manual_seed(0)
    class_logits = torch.zeros(1, 4, 6, requires_grad=True)
    mask_logits = torch.randn(1, 4, 16, 16, requires_grad=True)
    masks, classes = random_targets([(16, 16)], [2])
    criterion = make_criterion(256)
    optimizer = torch.optim.Adam([class_logits, mask_logits], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        criterion([(class_logits, mask_logits)], classes, masks)[0].backward()
        optimizer.step()
    ((queries, targets),) = criterion.matcher.match(class_logits, mask_logits, classes, masks)
    predicted = interpolate(mask_logits.detach(), (16, 16))[0, queries] > 0
    assert (predicted == masks[0][targets].bool()).float().mean() > 0.97
    assert class_logits[0, queries].argmax(-1).tolist() == classes[0][targets].tolist()


def _count_on_rank(rank: int, counts: list[int], folder: str, results):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=len(counts)
    )
    results[rank] = count_masks([torch.zeros(counts[rank])], torch.device("cpu")).item()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("counts", "expected"), [([10, 6], 8.0), ([0, 0], 1.0), ([0, 3], 1.5)])
def test_reference_row_22_masks_are_counted_once_over_the_processes(counts, expected, tmp_path):
    """The original: 10 and 6 masks on two processes count 8 on each; transformers divides twice and counts 4."""
    results = torch.multiprocessing.get_context("spawn").Manager().dict()
    torch.multiprocessing.spawn(_count_on_rank, (counts, str(tmp_path), results), nprocs=len(counts))
    assert dict(results) == dict.fromkeys(range(len(counts)), expected)


def test_the_count_is_at_least_one():
    assert count_masks([torch.zeros(0)], torch.device("cpu")) == 1


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(ValueError, match="all 0"):
        HungarianMatcher(0, 0, 0, 10)


def test_the_models_loss_uses_the_configured_weights():
    model = small_model("resnet", class_weight=1.0, mask_weight=3.0, dice_weight=7.0)
    masks, classes = random_targets([(64, 64)], [2])
    outputs = model(torch.randn(1, 3, 64, 64), mask_labels=masks, class_labels=classes)
    weights = {"loss_ce": 1.0, "loss_mask": 3.0, "loss_dice": 7.0}
    expected = sum(weights["_".join(name.split("_")[:2])] * term for name, term in outputs.loss_dict.items())
    torch.testing.assert_close(outputs.loss, expected)
