"""The operator without a compiler, beside the criterion that it stands for; test_compilation.py has it in a graph."""

import pytest
import torch
from criterion_cases import (
    CANVAS,
    FORMS,
    gradients,
    make_criterion,
    make_targets,
    overlapping_maps,
    random_predictions,
)
from torch import nn

from m2f.modeling_m2f.criterion import Criterion
from m2f.modeling_m2f.loss_operator import is_operable, loss_in_graph

pytest_plugins = ("kernel_fixtures",)
SIZES = [(64, 96), (40, 70)]


def operator_and_criterion(predictions, masks, classes, counts=(None, None, None), **changes):
    """What both return at the same points."""
    criterion = make_criterion()
    for name, value in changes.items():
        setattr(criterion, name, value)
    torch.manual_seed(1)
    found = loss_in_graph(criterion, *predictions, masks, classes, torch.tensor(SIZES), CANVAS, False, counts)
    torch.manual_seed(1)
    return found, criterion(*predictions, make_targets(masks, classes, valid=SIZES), *counts)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_loss_terms_and_gradients_are_the_criterions(kernels, form, compiled_kernel, monkeypatch):
    """Plain PyTorch needs autograd inside of the operator, where PyTorch switches it off."""
    monkeypatch.setenv("M2F_KERNELS", kernels)
    predictions = random_predictions()
    labels = FORMS[form](*overlapping_maps())
    found, expected = operator_and_criterion(predictions, *labels)
    assert torch.equal(found[0], expected[0]) and found[1].keys() == expected[1].keys()
    assert all(torch.equal(term, expected[1][name]) and not term.requires_grad for name, term in found[1].items())
    for gradient, other in zip(gradients(found, predictions), gradients(expected, predictions), strict=True):
        assert other.abs().sum() > 0 and torch.equal(gradient, other)


def test_counts_weights_and_the_factor_of_the_loss_reach_it():
    predictions = [x.detach().bfloat16().requires_grad_() for x in random_predictions()]
    ids, _, classes = overlapping_maps()
    weight = torch.tensor([3.0, 1, 1, 2, 5, 0.2])
    counts = (7, torch.tensor(4), 11.0)
    found, expected = operator_and_criterion(
        predictions,
        list(ids),
        classes,
        counts,
        empty_weight=weight,
        loss_weights=dict(loss_ce=1, loss_mask=2, loss_dice=7),
    )
    assert torch.equal(found[0], expected[0])
    results = [torch.autograd.grad(3 * total, predictions) for total, _ in (found, expected)]
    for gradient, other in zip(*results, strict=True):
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(gradient, other)


def test_without_gradients_none_is_computed(monkeypatch):
    monkeypatch.setattr(torch.autograd, "grad", None)
    predictions = [x.detach() for x in random_predictions()]
    ids, _, classes = overlapping_maps()
    found, expected = operator_and_criterion(predictions, list(ids), classes)
    assert torch.equal(found[0], expected[0]) and not found[0].requires_grad


def test_a_second_derivative_is_refused():
    predictions = random_predictions()
    ids, _, classes = overlapping_maps()
    (total, _), _ = operator_and_criterion(predictions, list(ids), classes)
    (first,) = torch.autograd.grad(total, predictions[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        first.sum().backward()


def test_wrong_labels_are_named():
    predictions = random_predictions()
    ids, _, classes = overlapping_maps()
    with pytest.raises(ValueError, match="Image 1: class_labels .* are outside"):
        operator_and_criterion(predictions, list(ids), [classes[0], classes[1] + 5])


def test_what_the_operator_does_not_know_is_left_to_the_criterion():
    class Other(Criterion):
        pass

    criterion, labels = make_criterion(), ([torch.zeros(1, 4, 4)], torch.zeros(1, 1))
    assert is_operable(criterion, *labels)
    assert not is_operable(criterion, [labels[0][0].numpy()], labels[1])
    handle = criterion.register_forward_hook(lambda *_: None)
    assert not is_operable(criterion, *labels)
    handle.remove()
    criterion.matcher = nn.Identity()
    assert not is_operable(criterion, *labels)
    criterion = make_criterion()
    criterion.__class__ = Other
    assert not is_operable(criterion, *labels)
