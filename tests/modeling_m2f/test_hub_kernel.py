"""`use_kernels=True` of transformers: a kernel from the Hub, put in the place of the op, gets what it expects."""

import importlib.util
import inspect
import types

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from ms_deform_attn_inputs import LEVELS, make_inputs, tensors
from small_models import small_model
from torch import nn
from transformers.models.deformable_detr import modeling_deformable_detr
from transformers.utils.import_utils import is_kernels_available

from m2f.modeling_m2f.deformable_attention import MultiScaleDeformableAttention
from m2f.modeling_m2f.hub_kernel import ReplaceableSampling
from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn
from m2f.modeling_m2f.kernels.ms_deform_attn_reference import (
    locations_and_weights,
    ms_deform_attn_reference,
    sum_at_locations,
)
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

SHAPES = LEVELS[:3]
LAYER = "MultiScaleDeformableAttention"  # transformers' name for what Hub kernels replace


class HubLayer(nn.Module):
    """Stands for the Hub's: the same signature, arithmetic at locations, and a record of its calls."""

    calls = []

    def forward(
        self,
        value,
        value_spatial_shapes,
        value_spatial_shapes_list,
        level_start_index,
        sampling_locations,
        attention_weights,
        im2col_step,
    ):
        HubLayer.calls.append(
            (value, value_spatial_shapes, level_start_index, sampling_locations, attention_weights, im2col_step)
        )
        return sum_at_locations(value, value_spatial_shapes_list, sampling_locations, attention_weights)


@pytest.fixture
def calls():
    HubLayer.calls.clear()
    return HubLayer.calls


def replaced(layer=HubLayer):
    """As the package `kernels` replaces a module's forward."""
    sampling = ReplaceableSampling()
    sampling.forward = types.MethodType(layer.forward, sampling)
    return sampling


def test_the_form_of_hub_kernels_means_the_same():
    value, shapes, *others = make_inputs(SHAPES)
    locations, weights = locations_and_weights(shapes, *others)
    sizes = torch.tensor(shapes)
    starts = torch.tensor([0, 35, 36])
    out = ReplaceableSampling()(value, sizes, shapes, starts, locations, weights, 1)
    torch.testing.assert_close(out, ms_deform_attn_reference(value, shapes, *others))
    theirs = modeling_deformable_detr.MultiScaleDeformableAttention()(
        value, sizes, shapes, starts, locations, weights, 1
    )
    torch.testing.assert_close(out, theirs)


def test_signature_is_that_of_transformers():
    theirs = inspect.signature(modeling_deformable_detr.MultiScaleDeformableAttention.forward)
    ours = inspect.signature(ReplaceableSampling.forward)
    assert [(p.name, p.kind) for p in ours.parameters.values()] == [
        (p.name, p.kind) for p in theirs.parameters.values()
    ]


def test_the_class_carries_the_name_that_kernels_are_found_by(monkeypatch):
    """transformers' decorator does nothing without the package `kernels`, so that a stand-in looks at its use."""
    decorated = {}

    def decorator(name):
        return lambda decorated_class: decorated.setdefault(name, decorated_class)

    monkeypatch.setattr("transformers.integrations.use_kernel_forward_from_hub", decorator)
    spec = importlib.util.spec_from_file_location("another_hub_kernel", inspect.getfile(ReplaceableSampling))
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert {name: found.__name__ for name, found in decorated.items()} == {LAYER: "ReplaceableSampling"}


@pytest.mark.parametrize("batch", [2, 96])
def test_a_replaced_forward_gets_what_it_expects(calls, batch):
    inputs = make_inputs(SHAPES, batch=batch, dtype=torch.float32)
    expected = ms_deform_attn(*inputs)
    out = replaced().attend(*inputs)
    torch.testing.assert_close(out, expected)
    for one, other in zip(*(torch.autograd.grad(x.sum(), tensors(inputs)) for x in (out, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    value, sizes, starts, locations, weights, images_at_once = calls[0]
    assert value.shape == (batch, 75, 3, 8) and locations.shape == (batch, 11, 3, 3, 4, 2)
    assert weights.shape == locations.shape[:-1]
    assert sizes.tolist() == [[5, 7], [1, 1], [13, 3]] and starts.tolist() == [0, 35, 36]
    assert sizes.dtype == starts.dtype == torch.int64
    assert all(x.is_contiguous() for x in (value, sizes, starts, locations, weights))
    assert batch % images_at_once == 0 and images_at_once <= 64


def test_half_types_reach_a_hub_kernel_as_float32(calls):
    inputs = make_inputs(SHAPES, dtype=torch.bfloat16)
    out = replaced().attend(*inputs)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, ms_deform_attn(*inputs), rtol=2e-2, atol=2e-2)
    assert {x.dtype for x in calls[0][:5]} == {torch.float32, torch.int64}


@pytest.mark.parametrize("change", ["nothing", "replaced by itself", "hooked"])
def test_the_op_runs_where_no_kernel_was_put(monkeypatch, change):
    """`kernels` puts a class's own forward where it has no kernel; accelerate's hooks wrap every module's forward."""
    sampling = {"replaced by itself": lambda: replaced(ReplaceableSampling)}.get(change, ReplaceableSampling)()
    if change == "hooked":
        add_hook_to_module(sampling, ModelHook())
    ran = []
    monkeypatch.setattr("m2f.modeling_m2f.hub_kernel.ms_deform_attn", lambda value, *others: ran.append(1) or value)
    sampling.attend(*make_inputs(SHAPES))
    assert ran


@pytest.mark.parametrize("hooked", [False, True])
def test_a_function_put_in_the_place_of_forward_runs(hooked):
    sampling, ran = ReplaceableSampling(), []
    sampling.forward = lambda value, *others: ran.append(1) or value
    if hooked:
        add_hook_to_module(sampling, ModelHook())
    sampling.attend(*make_inputs(SHAPES))
    assert ran


def test_a_hooked_hub_kernel_runs(calls):
    sampling = replaced()
    add_hook_to_module(sampling, ModelHook())
    sampling.attend(*make_inputs(SHAPES))
    assert len(calls) == 1


def test_the_module_has_no_other_parameters_than_before():
    """The four of the original, by whose names checkpoints are loaded."""
    projections = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
    names = {f"{name}.{kind}" for name in projections for kind in ("weight", "bias")}
    assert set(MultiScaleDeformableAttention(32, 4, 3, 4).state_dict()) == names


@pytest.mark.parametrize("layer", [None, HubLayer])
def test_the_module_compiles_without_a_graph_break(layer):
    torch.manual_seed(0)
    attention = MultiScaleDeformableAttention(32, 4, 3, 4)
    if layer:
        attention.sampling = replaced(layer)
    cells = sum(height * width for height, width in SHAPES)
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    for batch in (2, 3):  # the second time the compiler has a symbol for it
        inputs = (torch.randn(batch, 5, 32), torch.randn(batch, cells, 32), torch.rand(1, 5, 3, 2), SHAPES)
        torch.testing.assert_close(compiled(*inputs), attention(*inputs))


@pytest.mark.skipif(is_kernels_available(), reason="the package `kernels` is there")
def test_without_the_package_transformers_says_what_is_missing(tmp_path):
    small_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pip install kernels"):
        M2FForUniversalSegmentation.from_pretrained(tmp_path, use_kernels=True)


@pytest.mark.skipif(not is_kernels_available(), reason="needs the package `kernels` in transformers' range")
def test_with_the_package_a_model_takes_a_kernel_and_gives_the_same(tmp_path, calls):
    from kernels import Mode, kernelize, use_kernel_mapping

    class Repository:
        """Stands for a repository on the Hub."""

        layer_name = LAYER

        def load(self):
            return type(LAYER, (nn.Module,), {"forward": HubLayer.forward})

    model = small_model()
    model.save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 64, 64)
    loaded = M2FForUniversalSegmentation.from_pretrained(tmp_path, use_kernels=True)
    with torch.no_grad():
        expected = model(pixels).masks_queries_logits
        torch.testing.assert_close(loaded(pixels).masks_queries_logits, expected)
        assert loaded.use_kernels and not calls  # there is no such kernel for CPUs
        with use_kernel_mapping({LAYER: {"cpu": Repository()}}):
            kernelize(loaded, mode=Mode.INFERENCE, device="cpu", use_fallback=False)
        torch.testing.assert_close(loaded(pixels).masks_queries_logits, expected, rtol=1e-4, atol=1e-4)
    assert len(calls) == model.config.encoder_layers
