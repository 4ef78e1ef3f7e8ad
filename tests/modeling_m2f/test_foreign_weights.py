"""Weights that are tensor subclasses, pruned, parametrised or registered anew, on any layer.

Expected: the same weights as plain tensors, computed with M2F_KERNELS=reference, where each layer is called.
"""

import copy

import pytest
import torch
from small_models import BACKBONES, corner_mask, small_model
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from m2f.modeling_m2f.attention import CrossAttention


class OnlyProducts(Tensor):
    """As quantised weights are: a stand-in without storage that knows products, and neither joining nor cutting."""

    @staticmethod
    def __new__(cls, values: Tensor):
        return Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype, device=values.device)

    def __init__(self, values: Tensor):
        self.values = values

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is nn.functional.linear:
            return function(args[0], args[1].values, *args[2:], **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].values.detach())
        raise NotImplementedError(f"{function} is not for these weights")


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    return {"pixel_values": pixels, "pixel_mask": corner_mask((64, 96), [(64, 96), (50, 60)])}


def weights_of(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """All but those of both layers of feed-forward networks, which have their tests with these."""
    named = {name: module for name, module in model.named_modules() if not name.endswith(("fc1", "fc2"))}
    found = [(module, "weight") for module in named.values() if isinstance(module, nn.Linear | nn.Conv2d)]
    return found + [(module, "in_proj_weight") for module in named.values() if isinstance(module, CrossAttention)]


@torch.no_grad()
def assert_as_reference(model: nn.Module, inputs: dict[str, Tensor], monkeypatch, reference: nn.Module):
    found = model(**inputs)
    monkeypatch.setenv("M2F_KERNELS", "reference")
    assert_close(found, reference(**inputs))


def assert_close(found, expected):
    for name in ("class_queries_logits", "masks_queries_logits"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("kind", [nn.Linear, CrossAttention])
def test_weights_that_are_tensor_subclasses(kind, inputs, monkeypatch):
    plain = small_model("swin")
    model = copy.deepcopy(plain)
    for module in model.modules():
        if isinstance(module, kind):
            name = "weight" if kind is nn.Linear else "in_proj_weight"
            setattr(module, name, nn.Parameter(OnlyProducts(getattr(module, name).detach()), requires_grad=False))
    assert_as_reference(model, inputs, monkeypatch, plain)


@torch.no_grad()
def test_weights_of_torchao(inputs):
    quantization = pytest.importorskip("torchao.quantization")
    model = small_model("swin")
    expected = model(**inputs).masks_queries_logits
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    attention = model.model.pixel_level_module.encoder.swin.encoder.layers[0].blocks[0].attention
    assert type(attention.q_proj.weight) not in (Tensor, nn.Parameter)
    # 8 bits with a scale per row: half a step is 1/254 of the largest weight.
    found = model(**inputs).masks_queries_logits
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 0.99


@pytest.mark.parametrize("made_permanent", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_pruned_weights(backbone, made_permanent, inputs, monkeypatch):
    """`prune.remove` registers the weight anew, behind the bias."""
    model = small_model(backbone)
    for layer, name in weights_of(model):
        prune.random_unstructured(layer, name, amount=0.3)
        if made_permanent:
            prune.remove(layer, name)
    assert_as_reference(model, inputs, monkeypatch, model)


class Enlarged(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 1.1 * weight


@pytest.mark.parametrize("removed", [False, True])
def test_parametrised_weights(removed, inputs, monkeypatch):
    """Against weights that are multiplied in place."""
    model = small_model("swin")
    reference = copy.deepcopy(model)
    for layer, name in weights_of(reference):
        getattr(layer, name).data.mul_(1.1)
    for layer, name in weights_of(model):
        parametrize.register_parametrization(layer, name, Enlarged())
        if removed:
            parametrize.remove_parametrizations(layer, name)
    assert_as_reference(model, inputs, monkeypatch, reference)


@torch.no_grad()
def test_weights_that_a_hook_makes(inputs, monkeypatch):
    """Old-style weight norm computes the weight in a hook before each call; against weights without one."""
    model = small_model("swin")
    normed = [layer for layer, name in weights_of(model) if name == "weight"]
    for layer in normed:
        with pytest.warns(FutureWarning):
            nn.utils.weight_norm(layer)
        layer.weight_g.mul_(1.1)  # which `weight` follows in the next call alone
    found = model(**inputs)
    for layer in normed:
        nn.utils.remove_weight_norm(layer)
    monkeypatch.setenv("M2F_KERNELS", "reference")
    assert_close(found, model(**inputs))
