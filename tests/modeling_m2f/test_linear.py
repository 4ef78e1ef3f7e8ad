"""Linear layers through oneDNN against torch's own."""

import copy
import pickle

import pytest
import torch
from torch import nn

from m2f.modeling_m2f.linear import Linear, is_fast, onednn_linear, product

needs_onednn = pytest.mark.skipif(onednn_linear() is None, reason="torch has no such operator on this processor")
ACTIVATIONS = {"none": lambda x: x, "relu": torch.relu, "gelu": nn.functional.gelu}


def close(found, expected, tolerance=1e-5):
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance * float(y.abs().max()))


def torchs(layer: Linear) -> nn.Linear:
    """torch's own layer with the same weights, which are shared."""
    plain = copy.copy(layer)
    plain.__class__ = nn.Linear
    return plain


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
def test_layer_has_the_gradients_of_torchs(bias):
    torch.manual_seed(0)
    layer, x = Linear(24, 40, bias=bias), torch.randn(2, 50, 24, requires_grad=True)
    grad = torch.randn(2, 50, 40)
    inputs = (x, *layer.parameters())
    plain = torchs(layer)
    close(torch.autograd.grad(layer(x), inputs, grad), torch.autograd.grad(plain(x), inputs, grad))
    layer.requires_grad_(False)
    close(torch.autograd.grad(layer(x), x, grad), torch.autograd.grad(plain(x), x, grad))


class Doubled(Linear):
    """What an adapter does: a linear layer that gives something else."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_it_is_found_where_torchs_layer_is():
    """Quantisation and counters that know layers by their exact class passed over it, without a word."""
    model = nn.Sequential(Linear(24, 40), nn.ReLU(), nn.Linear(40, 8), Doubled(8, 8))
    table = {nn.Linear: "linear", nn.Conv2d: "convolution"}
    assert [table.get(type(layer)) for layer in model] == ["linear", None, "linear", None]
    assert Linear == nn.Linear and nn.Linear == Linear and Linear != nn.Bilinear and Doubled != Linear
    assert copy.deepcopy(model)[0].__class__ is Linear and pickle.loads(pickle.dumps(model[0])).__class__ is Linear


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_torchs_dynamic_quantisation():
    if not hasattr(torch.ao.quantization, "quantize_dynamic"):
        pytest.skip("this torch has no quantize_dynamic")
    torch.manual_seed(0)
    model, x = nn.Sequential(Linear(24, 40), nn.ReLU(), nn.Linear(40, 8)).eval(), torch.randn(3, 24)
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert not [layer for layer in quantised if isinstance(layer, nn.Linear)]
    torch.testing.assert_close(quantised(x), model(x), rtol=0, atol=0.05)


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
    layer, x = Linear(8, 8), torch.randn(64, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    found = torch.compile(layer, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(found, torchs(layer)(x))


@needs_onednn
def test_second_derivatives_of_a_layer_are_torchs():
    layer, x = Linear(8, 8), torch.randn(64, 8, requires_grad=True)
    penalties = []
    for apply in (layer, torchs(layer)):
        (gradient,) = torch.autograd.grad(apply(x).pow(3).sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(gradient.square().sum(), (x, layer.weight, layer.bias)))
    close(*penalties, tolerance=1e-4)


@needs_onednn
def test_a_bias_of_another_kind_or_type_is_left_to_itself():
    x = torch.randn(64, 8)
    for bias in (torch.zeros(8).as_subclass(Quantised), torch.zeros(8, dtype=torch.float64)):
        assert not is_fast(x, torch.randn(8, 8), bias)
