"""Types of 16 bits on a processor without instructions for them: "could not create a primitive descriptor", or a
hundredth of the speed.

The processor is played by answering `product_dtype` with float32; which products PyTorch then makes in which type is
read from its operators, and results are compared with those in float32. test_weaker_processor.py runs whole models in
processes where oneDNN and PyTorch really do without.
"""

import contextlib
import copy

import pytest
import torch
from small_models import random_targets, small_model
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from m2f.modeling_m2f.convolution import Conv3x3
from m2f.modeling_m2f.linear import Linear, _tried_operator, onednn_linear, product
from m2f.modeling_m2f.native_types import _is_native, product_dtype
from m2f.modeling_m2f.wide_products import WideProducts, wide_products, with_same_products

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward", "_linear_pointwise", "linear")


@pytest.fixture
def no_instructions(monkeypatch):
    monkeypatch.setattr("m2f.modeling_m2f.native_types._is_native", lambda dtype: False)


class Recorder(TorchDispatchMode):
    """The types of the operands of all products, of the backward pass too."""

    def __init__(self):
        super().__init__()
        self.types = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name().split("::")[1].split(".")[0] in PRODUCTS:
            self.types |= {x.dtype for x in args if isinstance(x, torch.Tensor)}
        return func(*args, **(kwargs or {}))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("backbone", ["swin", "resnet", "convnext"])
def test_a_model_of_16_bits_multiplies_in_float32(backbone, dtype, no_instructions):
    model, pixels = small_model(backbone).to(dtype), torch.randn(2, 3, 64, 96)
    with torch.no_grad(), Recorder() as recorder:
        found = model(pixels.to(dtype))
    assert recorder.types == {FP32}
    assert found.class_queries_logits.dtype == found.masks_queries_logits.dtype == dtype
    with torch.no_grad():
        expected = model.float()(pixels.to(dtype).float())
    assert relative(found.class_queries_logits, expected.class_queries_logits) < 0.1
    assert relative(found.encoder_last_hidden_state, expected.encoder_last_hidden_state) < 0.05


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("backbone", ["swin", "resnet"])
@pytest.mark.parametrize("autocast", [False, True])
def test_training_multiplies_in_float32(backbone, checkpointing, autocast, no_instructions):
    model = small_model(backbone).train().to(FP32 if autocast else BF16)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model = copy.deepcopy(model)
    pixels = torch.randn(1, 3, 64, 96, dtype=model.dtype)
    masks, classes = random_targets([(64, 96)], [3])
    with Recorder() as recorder:
        with torch.autocast("cpu", dtype=BF16, enabled=autocast):
            loss = model(pixels, mask_labels=masks, class_labels=classes).loss
        loss.backward()
    assert recorder.types == {FP32}
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.dtype == parameter.dtype, name
    assert model.model.transformer_module.queries_features.weight.grad.abs().sum() > 0


def test_an_adapter_around_a_layer_multiplies_in_float32(no_instructions):
    class Adapter(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer, self.down = layer, nn.Linear(layer.in_features, 2, bias=False)
            self.up = nn.Parameter(torch.randn(2, layer.out_features))

        def forward(self, x):
            return self.layer(x) + torch.einsum("bqr,ro->bqo", self.down(x), self.up)

    model = small_model("swin")
    layer = model.model.transformer_module.decoder.layers[0]
    layer.fc1 = Adapter(layer.fc1)
    with torch.no_grad(), Recorder() as recorder:
        model.to(BF16)(torch.randn(1, 3, 64, 64, dtype=BF16))
    assert recorder.types == {FP32}


def _cases() -> dict:
    torch.manual_seed(0)
    x, weight, bias, maps, kernel = (
        torch.randn(size) for size in ((40, 24), (16, 24), (16,), (2, 4, 9, 9), (4, 4, 3, 3))
    )
    batch = torch.randn(3, 5, 7)
    return {
        "linear": (F.linear, (x, weight, bias)),
        "linear, few rows": (F.linear, (x[:2], weight)),
        "conv2d": (F.conv2d, (maps, kernel)),
        "conv_transpose2d": (F.conv_transpose2d, (maps, kernel)),
        "matmul": (torch.matmul, (x, weight.t())),
        "@": (lambda a, b: a @ b, (x, weight.t())),
        "bmm": (torch.bmm, (batch, batch.transpose(1, 2))),
        "addmm": (torch.addmm, (bias, x, weight.t())),
        "baddbmm": (torch.baddbmm, (torch.ones(3, 5, 5), batch, batch.transpose(1, 2))),
        "einsum": (torch.einsum, ("ij,kj->ik", x, weight)),
        "nn.Conv2d": (nn.Conv2d(4, 4, 3), (maps,)),
        "nn.MultiheadAttention": (lambda q: F.scaled_dot_product_attention(q, q, q) @ batch.to(q.dtype).mT, (batch,)),
    }


@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("name", _cases())
def test_a_product_is_rounded_once(name, dtype, no_instructions):
    function, args = _cases()[name]
    rounded = [x.to(dtype) if isinstance(x, torch.Tensor) else x for x in args]
    if isinstance(function, nn.Module):
        function.to(dtype)
    with torch.no_grad(), WideProducts(), Recorder() as recorder:
        found = function(*rounded)
    assert found.dtype == dtype and FP32 in recorder.types and dtype not in recorder.types
    if isinstance(function, nn.Module):
        function.double()
    exact = function(*(x.double() if isinstance(x, torch.Tensor) else x for x in rounded))
    torch.testing.assert_close(found.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-2)


@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_layers_of_16_bits_multiply_in_float32_and_keep_16_bits(dtype, no_instructions):
    layer, x = Linear(24, 40).to(dtype), torch.randn(50, 24, dtype=dtype, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.dtype) or t, lambda t: t):
        with Recorder() as recorder:
            out = layer(x)
            out.backward(torch.ones_like(out))
    assert recorder.types == {FP32} or onednn_linear() is None
    assert FP32 not in kept or onednn_linear() is None
    exact = layer.weight.double().sum(0).expand_as(x)
    torch.testing.assert_close(x.grad.double(), exact, rtol=torch.finfo(dtype).eps, atol=0)


def test_convolutions_of_large_maps_multiply_in_float32(no_instructions):
    conv = Conv3x3(16, 16, 3, padding=1, bias=False).to(BF16).requires_grad_(False)
    x = torch.randn(1, 16, 64, 64, dtype=BF16)
    with Recorder() as recorder, WideProducts():
        found = conv(x)
    assert found.dtype == BF16 and BF16 not in recorder.types
    torch.testing.assert_close(found.double(), conv.double()(x.double()), rtol=0.01, atol=0.01)


def test_a_compiled_model_computes_the_same(no_instructions):
    layers, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(2), nn.Linear(36, 8)).to(BF16), torch.randn(2, 3, 8, 8)

    def run(x):
        with wide_products(x, BF16):
            return layers(x) @ layers[2].weight[:, :8]

    with torch.no_grad():
        found = torch.compile(run, backend="eager", fullgraph=True)(x.to(BF16))
        torch.testing.assert_close(found, run(x.to(BF16)))


def test_where_nothing_is_intercepted(no_instructions, monkeypatch):
    pixels = torch.randn(1, 3, 4, 4)
    assert isinstance(wide_products(pixels, BF16), WideProducts)
    assert isinstance(wide_products(pixels, FP32), contextlib.nullcontext)
    assert isinstance(wide_products(pixels.to("meta"), BF16), contextlib.nullcontext)
    with torch.autocast("cpu", dtype=FP16):
        assert isinstance(wide_products(pixels, FP32), WideProducts)
    monkeypatch.setenv("M2F_KERNELS", "reference")
    assert isinstance(wide_products(pixels, BF16), contextlib.nullcontext)
    assert with_same_products(len) is len


@pytest.mark.parametrize(
    ("machine", "question", "instructions", "limit", "native"),
    [
        ("x86_64", True, {"avx512_bf16"}, None, True),
        ("AMD64", True, {"amx_bf16"}, "ALL", True),
        ("x86_64", True, set(), None, False),  # AVX-512 of 2017 to 2019: oneDNN takes the type, slowly
        ("x86_64", True, {"avx512_bf16"}, "AVX512_CORE", False),
        ("x86_64", True, {"avx512_bf16"}, "avx512_core_vnni", False),
        ("x86_64", False, {"avx512_bf16"}, "AVX2", False),
        ("x86_64", None, {"avx512_bf16"}, None, False),  # a build without the question
        ("aarch64", True, set(), None, True),
        ("arm64", False, set(), None, False),
    ],
)
def test_which_processors_have_bfloat16(machine, question, instructions, limit, native, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    answer = None if question is None else lambda: question
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", answer, raising=False)
    monkeypatch.setattr("m2f.modeling_m2f.native_types._has", lambda instruction: instruction in instructions)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert _is_native.__wrapped__(BF16) == native


@pytest.mark.parametrize("dtype", [FP32, torch.float64, torch.int64, torch.bool])
def test_other_types_are_their_own(dtype, no_instructions):
    assert product_dtype(dtype) == dtype


def test_an_operator_that_refuses_a_type_is_not_asked_for_it(monkeypatch):
    """The operator was tried in float32 alone, and taken for bfloat16 too."""

    def refuses(x, *others):
        if x.dtype != FP32:
            raise RuntimeError("could not create a primitive descriptor")
        return F.gelu(x @ others[0].t())

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", refuses)
    _tried_operator.cache_clear()
    monkeypatch.setattr("m2f.modeling_m2f.native_types._is_native", lambda dtype: True)
    try:
        assert onednn_linear(BF16) is None
        x, weight = torch.randn(64, 8, dtype=BF16), torch.randn(8, 8, dtype=BF16)
        assert torch.equal(product(x, weight), F.linear(x, weight))
    finally:
        _tried_operator.cache_clear()
