import plain_criterion
import pytest
import torch
from criterion_cases import (
    CANVAS,
    FORMS,
    NUM_CLASSES,
    NUM_QUERIES,
    gradients,
    make_criterion,
    make_targets,
    overlapping_maps,
    padded,
    random_predictions,
)
from plain_criterion import WEIGHTS
from small_models import random_targets, small_model
from torch.nn.functional import interpolate

from m2f.modeling_m2f.matcher import HungarianMatcher
from m2f.modeling_m2f.prepare_targets import IGNORED

pytest_plugins = ("kernel_fixtures",)


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


def test_the_models_loss_uses_the_configured_weights():
    model = small_model("resnet", class_weight=1.0, mask_weight=3.0, dice_weight=7.0)
    masks, classes = random_targets([(64, 64)], [2])
    outputs = model(torch.randn(1, 3, 64, 64), mask_labels=masks, class_labels=classes)
    weights = {"loss_ce": 1.0, "loss_mask": 3.0, "loss_dice": 7.0}
    expected = sum(weights["_".join(name.split("_")[:2])] * term for name, term in outputs.loss_dict.items())
    torch.testing.assert_close(outputs.loss, expected)
