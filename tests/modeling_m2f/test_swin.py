"""The lean Swin backbone against transformers' own, with the same weights."""

import copy

import pytest
import torch
from transformers import AutoBackbone, SwinConfig

from m2f.modeling_m2f.swin import LeanSwinLayer, feature_maps_of, use_lean_layers

pytest_plugins = ("kernel_fixtures",)
SMALL = {
    "embed_dim": 16,
    "depths": [2, 2, 2, 1],
    "num_heads": [1, 2, 2, 4],
    "window_size": 4,
    "drop_path_rate": 0.0,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


def pair(dtype=torch.float32, **fields):
    """transformers' backbone and its lean copy; all weights away from their starting values."""
    torch.manual_seed(0)
    theirs = AutoBackbone.from_config(SwinConfig(**{**SMALL, **fields})).to(dtype)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    ours = copy.deepcopy(theirs)
    use_lean_layers(ours)
    layers = [layer for layer in ours.modules() if isinstance(layer, LeanSwinLayer)]
    for layer in layers:
        layer.recomputes = True
    assert len(layers) == sum(SMALL["depths"])
    return ours, theirs


def maps_and_gradients(backbone, pixels):
    maps = feature_maps_of(backbone, pixels)
    draw = torch.Generator().manual_seed(2)
    loss = sum((x * torch.randn(x.shape, generator=draw)).sum() for x in maps)
    names, parameters = zip(*backbone.named_parameters(), strict=True)
    return maps, dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


@pytest.mark.parametrize("size", [(64, 64), (72, 100), (33, 47), (128, 32)])
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.usefixtures("compiled_kernel")
def test_equals_transformers(size, qkv_bias):
    ours, theirs = (backbone.train() for backbone in pair(qkv_bias=qkv_bias))
    pixels = torch.randn(2, 3, *size)
    (found, found_gradients), (expected, expected_gradients) = (
        maps_and_gradients(backbone, pixels) for backbone in (ours, theirs)
    )
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
    largest = max(float(y.abs().max()) for y in expected_gradients.values() if y is not None)
    for name, y in expected_gradients.items():
        if y is None:
            assert found_gradients[name] is None
            continue
        # Of some, such as the keys' bias, the gradient is 0 but for rounding.
        torch.testing.assert_close(found_gradients[name], y, rtol=1e-3, atol=max(1e-4 * y.abs().max(), 1e-6 * largest))


@pytest.mark.usefixtures("compiled_kernel")
def test_the_kernel_runs_and_not_transformers_layer(monkeypatch):
    ours, _ = pair()
    monkeypatch.setattr("transformers.models.swin.modeling_swin.window_partition", None)
    feature_maps_of(ours.eval(), torch.randn(1, 3, 64, 64))


def test_without_kernels_it_is_transformers(monkeypatch):
    monkeypatch.setenv("M2F_KERNELS", "reference")
    ours, theirs = pair()
    pixels = torch.randn(1, 3, 72, 40)
    for x, y in zip(feature_maps_of(ours, pixels), theirs(pixels).feature_maps, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


def test_attention_weights_and_hidden_states_where_asked_for():
    ours, theirs = pair(attn_implementation="eager")
    pixels = torch.randn(1, 3, 64, 64)
    found, expected = (x(pixels, output_attentions=True, output_hidden_states=True) for x in (ours, theirs))
    assert len(found.attentions) == len(expected.attentions) == 4
    for name in ("attentions", "hidden_states", "feature_maps"):
        for x, y in zip(found[name], expected[name], strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("compiled_kernel")
def test_an_adapter_in_an_attention_layer_counts():
    """As LoRA does it: a module in the place of a projection; also where cells fill up a window."""
    ours, theirs = pair()
    for backbone in (ours, theirs):
        attention = backbone.swin.encoder.layers[0].blocks[1].attention
        attention.k_proj = torch.nn.Sequential(attention.k_proj, torch.nn.Tanh())
    pixels = torch.randn(1, 3, 72, 40)
    for x, y in zip(feature_maps_of(ours, pixels), theirs(pixels).feature_maps, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("compiled_kernel")
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.1), (torch.float64, 1e-9)])
def test_other_types(dtype, tolerance):
    ours, theirs = pair(dtype)
    pixels = torch.randn(1, 3, 72, 40, dtype=dtype)
    for x, y in zip(feature_maps_of(ours, pixels), theirs(pixels).feature_maps, strict=True):
        assert x.dtype == dtype
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance * float(y.abs().max()))


@pytest.mark.usefixtures("compiled_kernel")
def test_compiles_in_one_graph():
    ours, _ = pair()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        compiled = torch.compile(feature_maps_of, backend="aot_eager", fullgraph=True)
        for x, y in zip(compiled(ours.eval(), pixels), feature_maps_of(ours, pixels), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


def test_a_hook_on_the_backbone_runs():
    ours, _ = pair()
    ours.register_forward_hook(lambda module, inputs, output: type(output)(feature_maps=(torch.zeros(1),)))
    assert len(feature_maps_of(ours, torch.randn(1, 3, 64, 64))) == 1


@pytest.mark.usefixtures("compiled_kernel")
def test_other_modules_in_the_feed_forward_network_count():
    """The approximate GELU instead of the exact one; no dropout at all; a whole network without layers."""
    ours, theirs = (backbone.train() for backbone in pair())
    for backbone in (ours, theirs):
        blocks = [stage.blocks[0] for stage in backbone.swin.encoder.layers]
        blocks[0].mlp.activation_fn = torch.nn.GELU("tanh")
        blocks[1].dropout = torch.nn.Identity()
        blocks[2].mlp = torch.nn.Tanh()
    pixels = torch.randn(1, 3, 64, 64)
    for x, y in zip(feature_maps_of(ours, pixels), theirs(pixels).feature_maps, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("compiled_kernel")
@pytest.mark.parametrize("module", ["dropout", "attention"])
def test_dropout_left_on_in_evaluation_drops(module):
    """As for an estimate of uncertainty: these modules alone are in training mode, and two results differ."""
    ours, _ = pair(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    block = ours.eval().swin.encoder.layers[0].blocks[0]
    getattr(block, module).train()
    if module == "dropout":  # which acts behind the attention too: on nothing
        for parameter in block.attention.o_proj.parameters():
            torch.nn.init.zeros_(parameter)
    pixels = torch.randn(1, 3, 64, 64)
    one, other = (feature_maps_of(ours, pixels) for _ in range(2))
    assert not torch.equal(one[0], other[0])


@pytest.mark.usefixtures("compiled_kernel")
def test_a_hook_inside_an_adapter_runs_once():
    """And not again for the cells that fill up a window."""
    ours, _ = pair()
    attention = ours.swin.encoder.layers[0].blocks[1].attention
    attention.k_proj = torch.nn.Sequential(attention.k_proj, torch.nn.Tanh())
    shapes = []
    attention.k_proj[0].register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    feature_maps_of(ours, torch.randn(1, 3, 72, 40))
    assert shapes == [(15, 16, 16)]  # windows of 4 x 4 in 20 x 12 cells; 16 channels
