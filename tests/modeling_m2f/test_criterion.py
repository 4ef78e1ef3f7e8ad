import itertools

import plain_criterion
import pytest
import torch
from plain_criterion import WEIGHTS
from small_models import random_targets, small_model
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from torch.utils._python_dispatch import TorchDispatchMode

from m2f.modeling_m2f.criterion import Criterion
from m2f.modeling_m2f.mask_losses import dice_loss, mask_loss
from m2f.modeling_m2f.matcher import HungarianMatcher, assign, pairwise_dice_cost, pairwise_mask_cost
from m2f.modeling_m2f.point_sampling import PointChoice, sample_at_points, sample_cells, uncertain_points
from m2f.modeling_m2f.prepare_targets import IGNORED, NOTHING, PADDING_LABEL, prepare_targets

pytest_plugins = ("kernel_fixtures",)

NUM_CLASSES, NUM_QUERIES = 5, 8
CANVAS = (64, 96)


def make_criterion(num_points: int = 64) -> Criterion:
    matcher = HungarianMatcher(2.0, 5.0, 5.0, num_points)
    return Criterion(matcher, NUM_CLASSES, 0.1, PointChoice(num_points, 3.0, 0.75), WEIGHTS)


def make_targets(masks, classes, canvas: tuple[int, int] = CANVAS, valid: list[tuple[int, int]] | None = None):
    sizes = valid or [canvas] * len(classes)
    cpu = torch.device("cpu")
    return prepare_targets(masks, classes, sizes, canvas, canvas, valid is None, NUM_CLASSES, NUM_QUERIES, cpu)


def random_predictions(num_predictions: int = 3, batch: int = 2, canvas: tuple[int, int] = CANVAS, channels: int = 16):
    """Class logits, mask embeddings and mask features, leaves of the graph."""
    height, width = canvas[0] // 4, canvas[1] // 4
    class_logits = torch.randn(num_predictions, batch, NUM_QUERIES, NUM_CLASSES + 1)
    embeddings = torch.randn(num_predictions, batch, NUM_QUERIES, channels)
    features = torch.randn(batch, channels, height, width)
    return [x.requires_grad_() for x in (class_logits, embeddings, features)]


def overlapping_maps():
    """Index maps of two images (with a layer that only fills up) and the same masks one by one."""
    ids = torch.full((2, 2, *CANVAS), NOTHING, dtype=torch.int32)
    ids[0, 0, 5:30, 7:40], ids[0, 0, 40:60, 10:70] = 0, 1
    ids[0, 1, 20:50, 20:60] = 2
    ids[1, 0, :, :33] = 0
    ids[1, 1] = PADDING_LABEL
    classes = [torch.tensor([1, 3, 1]), torch.tensor([4])]
    masks = [torch.stack([(ids[b] == n).any(0) for n in range(len(c))]).to(torch.uint8) for b, c in enumerate(classes)]
    return ids, masks, classes


def padded(tensors: list[torch.Tensor], value: int) -> torch.Tensor:
    """One tensor of tensors of different length."""
    batch = torch.full((len(tensors), max(map(len, tensors)), *tensors[0].shape[1:]), value, dtype=tensors[0].dtype)
    for row, tensor in zip(batch, tensors, strict=True):
        row[: len(tensor)] = tensor
    return batch


def gradients(criterion_outputs, predictions):
    return torch.autograd.grad(criterion_outputs[0], predictions)


FORMS = {
    "index maps": lambda ids, masks, classes: (ids, padded(classes, PADDING_LABEL)),
    "list of index maps": lambda ids, masks, classes: (list(ids), classes),
    "uint8 stacks": lambda ids, masks, classes: (padded(masks, 0), padded(classes, PADDING_LABEL)),
    "list of uint8 stacks": lambda ids, masks, classes: (masks, classes),
    "list of float stacks": lambda ids, masks, classes: ([m.float() for m in masks], classes),
    "list of bool stacks": lambda ids, masks, classes: ([m.bool() for m in masks], classes),
}


@pytest.mark.parametrize("elements", [1, 2**21])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_terms_and_gradients_are_those_of_the_plain_criterion(
    kernels, form, elements, compiled_kernel, no_threads, monkeypatch
):
    """With the same points, for every form of labels, one mask and one prediction at a time and all at once."""
    monkeypatch.setenv("M2F_KERNELS", kernels)
    monkeypatch.setattr("m2f.modeling_m2f.mask_losses.GROUP_ELEMENTS", elements)
    monkeypatch.setattr("m2f.modeling_m2f.criterion.MATCHED_ELEMENTS", elements)
    torch.manual_seed(0)
    predictions = random_predictions()
    ids, masks, classes = overlapping_maps()
    torch.manual_seed(1)
    expected = plain_criterion.plain_criterion(*predictions, classes, masks, 64)
    torch.manual_seed(1)
    actual = make_criterion()(*predictions, make_targets(*FORMS[form](ids, masks, classes)))
    torch.testing.assert_close(actual[0], expected[0], atol=1e-5, rtol=1e-6)
    assert actual[1].keys() == expected[1].keys()
    for name, term in expected[1].items():
        torch.testing.assert_close(actual[1][name], term.detach(), atol=1e-5, rtol=1e-6)
    for gradient, other in zip(gradients(actual, predictions), gradients(expected, predictions), strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-6, rtol=1e-5)


@pytest.fixture
def no_threads():
    """A mask a thread is the least that the kernel works on at once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def test_pairwise_costs_are_the_losses_of_each_pair():
    logits, targets = torch.randn(4, 50, dtype=torch.float64), torch.rand(3, 50, dtype=torch.float64)
    mask_cost, dice_cost = pairwise_mask_cost(logits, targets), pairwise_dice_cost(logits, targets)
    for q, n in itertools.product(range(4), range(3)):
        expected = binary_cross_entropy_with_logits(logits[q], targets[n])
        torch.testing.assert_close(mask_cost[q, n], expected)
        p = logits[q].sigmoid()
        expected = 1 - (2 * (p * targets[n]).sum() + 1) / (p.sum() + targets[n].sum() + 1)
        torch.testing.assert_close(dice_cost[q, n], expected)


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


def test_points_at_cell_centres_read_the_cells():
    maps = torch.rand(2, 3, 4, 5)
    y, x = torch.meshgrid((torch.arange(4) + 0.5) / 4, (torch.arange(5) + 0.5) / 5, indexing="ij")
    points = torch.stack([x, y], -1).view(1, 20, 2)
    torch.testing.assert_close(sample_at_points(maps, points), maps.flatten(2), atol=1e-5, rtol=1e-5)


def test_sampled_cells_are_the_sampled_map():
    features, points = torch.randn(7, 5, 6), torch.rand(200, 2)
    points[:4] = torch.tensor([[0, 0], [1, 1], [0, 0.5], [0.5, 1]])  # borders, where zeros from outside weigh half
    expected = sample_at_points(features[None], points[None])[0].T
    actual = sample_cells(features.flatten(1).T.contiguous(), points, (5, 6))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_points_are_undecided_ones_and_uniform_ones():
    """Of 100 points, 75 lie where |logit| is least among 300 candidates, 25 anywhere."""
    logits = torch.linspace(-10, 10, 64).expand(1, 64, 64)
    torch.manual_seed(0)
    points = uncertain_points(logits, 100, 3.0, 0.75)
    assert points.shape == (1, 100, 2) and 0 <= points.min() and points.max() < 1
    distance = (points[0, :, 0] - 0.5).abs()
    # The 75 nearest of 300 uniform points lie within 1/8 of the middle, give or take 4 standard deviations.
    assert distance[:75].max() < 0.125 + 4 * 0.0125 and distance[75:].max() > 0.25


def test_undecided_points_that_do_not_count_are_kept_only_where_there_are_no_others():
    """Undecided in the middle; what counts is the lower half, of about 150 candidates, but for the border, where the
    zeros beyond look undecided."""
    logits = torch.linspace(-10, 10, 64).expand(1, 64, 64)
    torch.manual_seed(0)
    points = uncertain_points(logits, 100, 3.0, 0.75, lambda points: ((points[..., 1] - 0.75).abs() < 0.24).float())
    assert (points[0, :75, 1] - 0.75).abs().max() < 0.24 and points[0, 75:, 1].min() < 0.5
    assert (points[0, :75, 0] - 0.5).abs().max() < 0.25 + 4 * 0.025
    points = uncertain_points(logits, 100, 3.0, 0.75, lambda points: points.new_zeros(points.shape[:-1]))
    assert points.shape == (1, 100, 2)


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


def test_reference_row_23_costs_and_terms_are_float32_under_autocast():
    matcher = HungarianMatcher(2.0, 5.0, 5.0, 500)
    class_logits, logits, targets = torch.randn(5, 4), 3 * torch.randn(5, 500), (torch.rand(3, 500) > 0.5).float()
    predictions = random_predictions()
    ids, _, classes = overlapping_maps()
    costs, totals = [], []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            costs.append(matcher.cost(class_logits, logits, torch.tensor([0, 2, 1]), targets))
            torch.manual_seed(0)
            totals.append(make_criterion()(*predictions, make_targets(ids, padded(classes, -100)))[0])
    assert torch.equal(*costs) and torch.equal(*totals)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_predictions_are_compared_in_float32(dtype):
    predictions = [x.detach().to(dtype).requires_grad_() for x in random_predictions()]
    same = [x.detach().float().requires_grad_() for x in predictions]
    ids, _, classes = overlapping_maps()
    results = []
    for x in (predictions, same):
        torch.manual_seed(0)
        results.append(make_criterion()(*x, make_targets(ids, padded(classes, -100))))
    assert torch.equal(results[0][0], results[1][0])
    for x, gradient, other in zip(
        predictions, gradients(results[0], predictions), gradients(results[1], same), strict=True
    ):
        assert gradient.dtype == x.dtype
        torch.testing.assert_close(gradient, other.to(dtype))


@pytest.mark.parametrize("disturbed", [0, 1])
def test_reference_row_33_costs_that_are_not_finite_are_an_error_with_image_and_prediction(disturbed):
    """transformers replaces them, and trains on with a loss of NaN."""
    predictions = [x.detach() for x in random_predictions()]
    predictions[disturbed][2, 1, 3] = float("nan")
    masks, classes = random_targets([CANVAS] * 2, [2, 1])
    with pytest.raises(ValueError, match=r"image 1 in the batch is not finite in prediction 2 of 0\.\.2"):
        make_criterion()(*predictions, make_targets(masks, classes))


def test_the_classification_loss_weighs_no_object_with_a_tenth():
    criterion = make_criterion()
    class_logits, embeddings, features = random_predictions(1, 1)
    masks, classes = random_targets([CANVAS], [2])
    targets = make_targets(masks, classes)
    matches = criterion._match(class_logits, embeddings, features, targets)
    ((queries, chosen),) = matches[0]
    log_probability = class_logits[0, 0].log_softmax(-1)
    total, weight = 0.0, 0.0
    for q in range(NUM_QUERIES):
        label = classes[0][chosen[queries == q]].item() if (queries == q).any() else NUM_CLASSES
        w = 0.1 if label == NUM_CLASSES else 1.0
        total, weight = total - w * log_probability[q, label], weight + w
    losses, weights = criterion._class_losses(class_logits, targets, matches)
    torch.testing.assert_close(losses / weights, (total / weight)[None])


def test_the_total_is_the_weighted_sum_of_the_terms():
    masks, classes = random_targets([CANVAS] * 2, [2, 3])
    total, terms = make_criterion()(*random_predictions(), make_targets(masks, classes))
    assert set(terms) == {f"{name}{suffix}" for name in WEIGHTS for suffix in ("_0", "_1", "")}
    expected = sum(WEIGHTS[name] * terms[name + suffix] for name in WEIGHTS for suffix in ("_0", "_1", ""))
    torch.testing.assert_close(total, expected)
    assert total.requires_grad and not any(term.requires_grad for term in terms.values())


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


def test_an_image_without_targets_beside_one_with():
    torch.manual_seed(0)
    predictions = random_predictions()
    masks, classes = random_targets([CANVAS] * 2, [0, 3])
    torch.manual_seed(1)
    expected = plain_criterion.plain_criterion(*predictions, classes, masks, 64)
    torch.manual_seed(1)
    actual = make_criterion()(*predictions, make_targets(masks, classes))
    torch.testing.assert_close(actual[0], expected[0], atol=1e-5, rtol=1e-6)


def test_more_targets_than_queries():
    """8 of 11 are matched; the sums are still divided by 11, as in the original."""
    torch.manual_seed(0)
    predictions = random_predictions(batch=1)
    masks, classes = random_targets([CANVAS], [11])
    torch.manual_seed(1)
    expected = plain_criterion.plain_criterion(*predictions, classes, masks, 64)
    torch.manual_seed(1)
    actual = make_criterion()(*predictions, make_targets(masks, classes))
    torch.testing.assert_close(actual[0], expected[0], atol=1e-5, rtol=1e-6)


def test_what_lies_under_ignored_pixels_has_no_influence():
    """Ignored: the right third. The cells next to it may count, because a point beyond reads them too."""
    torch.manual_seed(0)
    predictions = random_predictions()
    ids, _, classes = overlapping_maps()
    ids[:, 0, :, 64:] = IGNORED
    results = []
    for value in (0.0, 100.0):
        features = predictions[2].detach().clone()
        features[..., 18:] = value * torch.randn_like(features[..., 18:])
        features.requires_grad_()
        torch.manual_seed(1)
        total, terms = make_criterion()(*predictions[:2], features, make_targets(ids, padded(classes, -100)))
        results.append((total, *torch.autograd.grad(total, [*predictions[:2], features])))
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert results[0][-1][..., 18:].abs().sum() == 0 and results[0][-1][..., :16].abs().sum() > 0


def test_what_lies_in_the_padding_has_no_influence():
    torch.manual_seed(0)
    predictions = random_predictions()
    _, masks, classes = overlapping_maps()
    totals = []
    for value in (0, 1):
        changed = [m.clone() for m in masks]
        features = predictions[2].detach().clone()
        for i, (height, width) in enumerate([(64, 72), (40, 96)]):
            changed[i][:, height + 1 :] = changed[i][:, :, width + 1 :] = value
            features[i, :, height // 4 + 1 :] = features[i, :, :, width // 4 + 1 :] = 50.0 * value
        torch.manual_seed(1)
        targets = make_targets(changed, classes, valid=[(64, 72), (40, 96)])
        totals.append(make_criterion()(*predictions[:2], features, targets)[0])
    assert torch.equal(*totals)


def test_without_ignored_pixels_the_weighted_path_agrees_with_the_other():
    predictions = random_predictions()
    ids, _, classes = overlapping_maps()
    totals = []
    for weighted in (False, True):
        targets = make_targets(ids, padded(classes, -100))
        for image in targets:
            image.ignored = torch.zeros(CANVAS, dtype=torch.bool) if weighted else None
        torch.manual_seed(1)
        totals.append(make_criterion()(*predictions, targets)[0])
    torch.testing.assert_close(*totals, rtol=1e-6, atol=1e-6)


def test_an_image_that_is_ignored_as_a_whole_gives_a_finite_loss_without_mask_terms():
    predictions = random_predictions(1, 1)
    targets = make_targets(torch.ones(1, 1, *CANVAS, dtype=torch.uint8), torch.tensor([[2]]))
    targets[0].ignored = torch.ones(CANVAS, dtype=torch.bool)
    total, terms = make_criterion()(*predictions, targets)
    assert terms["loss_mask"] == terms["loss_dice"] == 0
    class_gradient, *mask_gradients = gradients((total, terms), predictions)
    assert class_gradient.isfinite().all() and all(gradient.abs().sum() == 0 for gradient in mask_gradients)


def test_learning_brings_the_masks_to_the_targets():
    """Gradient descent on free features ends in the targets: the terms pull the right way."""
    torch.manual_seed(0)
    class_logits, features = torch.zeros(1, 1, 4, 6, requires_grad=True), torch.randn(1, 4, 16, 16, requires_grad=True)
    embeddings = torch.eye(4)[None, None]  # query q's mask is channel q
    masks, classes = random_targets([(16, 16)], [2])
    targets = make_targets(masks, classes, (16, 16))
    criterion = make_criterion(256)
    optimizer = torch.optim.Adam([class_logits, features], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        criterion(class_logits, embeddings, features, targets)[0].backward()
        optimizer.step()
    (((queries, chosen),),) = criterion._match(class_logits, embeddings, features, targets)
    predicted = interpolate(features.detach(), (16, 16))[0, queries] > 0
    assert (predicted == masks[0][chosen].bool()).float().mean() > 0.97
    assert class_logits[0, 0, queries].argmax(-1).tolist() == classes[0][chosen].tolist()


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
