"""Feed-forward networks in one step, against torch's own modules."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from m2f.modeling_m2f.feed_forward import FeedForward
from m2f.modeling_m2f.linear import Linear, onednn_linear

needs_onednn = pytest.mark.skipif(onednn_linear() is None, reason="torch has no such operator on this processor")
ACTIVATIONS = {"none": lambda x: x, "relu": torch.relu, "gelu": nn.functional.gelu}


def close(found, expected, tolerance=1e-5):
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance * float(y.abs().max()))


@needs_onednn
@pytest.mark.parametrize("adds_normalised", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("rows", [33, 64, 150])
def test_network_equals_its_modules(rows, activation, adds_normalised, monkeypatch):
    monkeypatch.setattr("m2f.modeling_m2f.feed_forward.BLOCK_ROWS", 64)
    torch.manual_seed(0)
    norm, fc1, fc2 = nn.LayerNorm(24, eps=1e-3), nn.Linear(24, 48), nn.Linear(48, 24)
    nn.init.normal_(norm.weight)
    network = FeedForward(norm, fc1, fc2, activation, adds_normalised)
    x, grad = torch.randn(rows, 24, requires_grad=True), torch.randn(rows, 24)
    normalised = norm(x)
    expected = (normalised if adds_normalised else x) + fc2(ACTIVATIONS[activation](fc1(normalised)))
    assert network.is_fast(x)
    found = network.apply(x)
    close([found], [expected])
    inputs = (x, *norm.parameters(), *fc1.parameters(), *fc2.parameters())
    close(torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad))


def network_and_plain(activation, adds_normalised):
    torch.manual_seed(0)
    norm, fc1, fc2 = nn.LayerNorm(6), Linear(6, 12), nn.Linear(12, 6)

    def plain(x):
        normalised = norm(x)
        return (normalised if adds_normalised else x) + fc2(ACTIVATIONS[activation](fc1(normalised)))

    return FeedForward(norm, fc1, fc2, activation, adds_normalised), plain


@needs_onednn
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("activation, adds_normalised", [("relu", True), ("gelu", False)])
def test_second_derivatives_are_those_of_the_modules(activation, adds_normalised, frozen):
    """They lacked all that went through the feed-forward network, or a layer."""
    network, plain = network_and_plain(activation, adds_normalised)
    network.fc1.requires_grad_(not frozen)
    x = torch.randn(40, 6, requires_grad=True)
    assert network.is_fast(x)
    penalties = []
    for apply in (network.apply, plain):
        (gradient,) = torch.autograd.grad(apply(x).square().sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(gradient.square().sum(), (x, network.norm.weight, network.fc2.weight)))
    close(*penalties, tolerance=1e-4)
    assert network.fc1.weight.requires_grad == (not frozen)


@needs_onednn
def test_weights_registered_anew_are_found_by_name():
    """After pruning the bias stands before the weight."""
    network, plain = network_and_plain("relu", True)
    for layer in (network.fc1, network.fc2):
        prune.l1_unstructured(layer, "weight", 0.5)
        prune.remove(layer, "weight")
    x = torch.randn(40, 6)
    assert network.is_fast(x) and [name for name, _ in network.fc1.named_parameters()] == ["bias", "weight"]
    close([network.apply(x)], [plain(x)])


@needs_onednn
def test_function_transforms_see_torchs_own_layers():
    """`torch.func.grad`, `vmap` and `jvp`, and forward-mode derivatives, failed in an autograd function."""
    network, plain = network_and_plain("gelu", False)
    layer, x = Linear(6, 6), torch.randn(3, 40, 6)

    def fast(x):
        y = layer(x)
        return (network.apply(y) if network.is_fast(y) else plain(y)).square().sum()

    def expected(x):
        return plain(nn.functional.linear(x, layer.weight, layer.bias)).square().sum()

    close([torch.func.grad(fast)(x)], [torch.func.grad(expected)(x)])
    close([torch.func.vmap(fast)(x)], [torch.stack([expected(y) for y in x])])
    close(torch.func.jvp(fast, (x,), (x,)), torch.func.jvp(expected, (x,), (x,)))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        tangents = [torch.autograd.forward_ad.unpack_dual(f(dual)).tangent for f in (fast, expected)]
    close(tangents[:1], tangents[1:])


@needs_onednn
@pytest.mark.parametrize("changed", ["fc1", "norm"])
def test_network_with_a_hook_is_left_to_its_modules(changed):
    modules = {"norm": nn.LayerNorm(24), "fc1": nn.Linear(24, 48), "fc2": nn.Linear(48, 24)}
    x = torch.randn(64, 24)
    assert FeedForward(*modules.values(), "relu", True).is_fast(x)
    modules[changed].register_forward_hook(lambda *_: None)
    assert not FeedForward(*modules.values(), "relu", True).is_fast(x)


class Doubled(Linear):
    """What an adapter does: a linear layer that gives something else."""

    def forward(self, x):
        return 2 * super().forward(x)


@needs_onednn
def test_network_of_other_layers_or_weights_is_left_to_its_modules():
    x = torch.randn(40, 6)
    network, _ = network_and_plain("relu", True)
    assert network.is_fast(x) and not network._replace(fc1=Doubled(6, 12)).is_fast(x)
    network.fc2.bias = nn.Parameter(torch.zeros(6).as_subclass(Quantised))
    assert not network.is_fast(x)


class Quantised(torch.Tensor):
    """A tensor that stands for another one, as quantised weights do."""
