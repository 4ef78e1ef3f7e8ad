"""Linear layers through oneDNN, and feed-forward networks in one step, against torch's own modules."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from m2f.modeling_m2f.feed_forward import FeedForward
from m2f.modeling_m2f.linear import is_fast, onednn_linear, product, project

needs_onednn = pytest.mark.skipif(onednn_linear() is None, reason="torch has no such operator on this processor")
ACTIVATIONS = {"none": lambda x: x, "relu": torch.relu, "gelu": nn.functional.gelu}


def close(found, expected, tolerance=1e-5):
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance * float(y.abs().max()))


@needs_onednn
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_product_equals_torch(activation):
    torch.manual_seed(0)
    x, layer = torch.randn(2, 50, 24), nn.Linear(24, 40)
    assert is_fast(x, layer.weight)
    with torch.no_grad():
        close([product(x, layer.weight, layer.bias, activation)], [ACTIVATIONS[activation](layer(x))])
        close([product(x, layer.weight.clone().t().contiguous().t())], [x @ layer.weight.t()])


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
def test_projection_has_the_gradients_of_the_layer(bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40, bias=bias), torch.randn(2, 50, 24, requires_grad=True)
    grad = torch.randn(2, 50, 40)
    inputs = (x, *layer.parameters())
    close(
        torch.autograd.grad(project(layer, x), inputs, grad),
        torch.autograd.grad(layer(x), inputs, grad),
    )
    layer.requires_grad_(False)
    close(torch.autograd.grad(project(layer, x), x, grad), torch.autograd.grad(layer(x), x, grad))


class Doubled(nn.Linear):
    """What an adapter does: a linear layer that gives something else."""

    def forward(self, x):
        return 2 * super().forward(x)


def hooked(layer):
    layer.register_forward_hook(lambda *_: torch.zeros(3, 40, 40))
    return layer


def replaced(layer):
    layer.forward = lambda x: torch.zeros(3, 40, 40)
    return layer


@pytest.mark.parametrize("layer", [Doubled(24, 40), hooked(nn.Linear(24, 40)), replaced(nn.Linear(24, 40))])
def test_what_takes_a_layers_place_is_called(layer):
    x = torch.randn(3, 40, 24)
    assert torch.equal(project(layer, x), layer(x))


@pytest.mark.parametrize(
    "x, kernels",
    [
        (torch.randn(64, 8).double(), "auto"),
        (torch.randn(2, 8), "auto"),
        (torch.randn(64, 8, device="meta"), "auto"),
        (torch.randn(64, 8), "reference"),
    ],
)
def test_when_torch_is_asked(x, kernels, monkeypatch):
    monkeypatch.setenv("M2F_KERNELS", kernels)
    assert not is_fast(x, torch.empty(8, 8, dtype=x.dtype, device=x.device))


class Quantised(torch.Tensor):
    """A tensor that stands for another one, as quantised weights do."""


def test_a_tensor_of_another_kind_is_left_to_itself():
    assert not is_fast(torch.randn(64, 8), torch.randn(8, 8).as_subclass(Quantised))
    assert is_fast(torch.randn(64, 8), nn.Parameter(torch.randn(8, 8))) == (onednn_linear() is not None)


def test_autocast_and_compilation_are_torchs():
    layer, x = nn.Linear(8, 8), torch.randn(64, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert project(layer, x).dtype == torch.bfloat16
    found = torch.compile(lambda t: project(layer, t), backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(found, layer(x))


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
    norm, fc1, fc2 = nn.LayerNorm(6), nn.Linear(6, 12), nn.Linear(12, 6)

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
def test_second_derivatives_of_a_layer_are_torchs():
    layer, x = nn.Linear(8, 8), torch.randn(64, 8, requires_grad=True)
    penalties = []
    for apply in (lambda x: project(layer, x), layer):
        (gradient,) = torch.autograd.grad(apply(x).pow(3).sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(gradient.square().sum(), (x, layer.weight, layer.bias)))
    close(*penalties, tolerance=1e-4)


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
def test_a_bias_of_another_kind_or_type_is_left_to_itself():
    x = torch.randn(64, 8)
    for bias in (torch.zeros(8).as_subclass(Quantised), torch.zeros(8, dtype=torch.float64)):
        assert not is_fast(x, torch.randn(8, 8), bias)
    network, _ = network_and_plain("relu", True)
    network.fc2.bias = nn.Parameter(torch.zeros(6).as_subclass(Quantised))
    assert not network.is_fast(torch.randn(40, 6))


@needs_onednn
def test_function_transforms_see_torchs_own_layers():
    """`torch.func.grad`, `vmap` and `jvp`, and forward-mode derivatives, failed in an autograd function."""
    network, plain = network_and_plain("gelu", False)
    layer, x = nn.Linear(6, 6), torch.randn(3, 40, 6)

    def fast(x):
        y = project(layer, x)
        return (network.apply(y) if network.is_fast(y) else plain(y)).square().sum()

    def expected(x):
        return plain(layer(x)).square().sum()

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
