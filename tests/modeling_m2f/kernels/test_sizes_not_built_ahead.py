"""A wheel's kernels where no compiler is: what it does not carry runs in plain PyTorch, with a warning."""

import copy
import warnings

import pytest
import torch
from ms_deform_attn_inputs import LEVELS, make_inputs
from small_models import random_targets, small_model

from m2f.modeling_m2f.kernels.cpu_compiler import load_library
from m2f.modeling_m2f.kernels.kernel_policy import KernelUnavailableError, warned
from m2f.modeling_m2f.kernels.kernel_report import CPU_SOURCES
from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn
from m2f.modeling_m2f.kernels.ms_deform_attn_cpu import MS_DEFORM_ATTN
from m2f.modeling_m2f.kernels.ms_deform_attn_reference import ms_deform_attn_reference

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("cpu_kernels")  # some of which are carried


@pytest.fixture
def carried(monkeypatch):
    """Lets a test say which definitions a wheel carries; nothing else can be had, and nothing was asked for before."""

    def carry(is_there):
        def load(source, defines):
            if not is_there(defines):
                raise KernelUnavailableError("not carried")
            return load_library(source, defines)

        monkeypatch.setattr("m2f.modeling_m2f.kernels.cpu_source.load_library", load)

    for source in (MS_DEFORM_ATTN, *(source for source, _ in CPU_SOURCES.values())):
        for name in ("_libraries", "_reasons"):
            monkeypatch.setattr(source, name, {})
    warned.clear()
    monkeypatch.setenv("M2F_KERNELS", "auto")
    return carry


def outputs_and_gradients(model, pixels, masks, classes):
    outputs = model(pixels, mask_labels=masks, class_labels=classes)
    model.zero_grad()
    outputs.loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [outputs.class_queries_logits, outputs.masks_queries_logits, *gradients]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_a_model_of_sizes_that_no_wheel_carries(backbone, dtype, carried, monkeypatch):
    """Its heads have other channels than those of published models, or its weights are float64: it crashed."""
    carried(lambda defines: defines.get("M2F_HEAD_DIM", 32) in (16, 32) and defines.get("M2F_DTYPE") != "double")
    model, pixels = small_model(backbone).to(dtype), torch.randn(1, 3, 64, 96, dtype=dtype)
    masks, classes = random_targets([(64, 96)], [2])
    model.eval()
    with pytest.warns(RuntimeWarning, match="plain PyTorch on cpu.*not carried"):
        found = outputs_and_gradients(copy.deepcopy(model), pixels, masks, classes)
    monkeypatch.setenv("M2F_KERNELS", "reference")
    expected = outputs_and_gradients(model, pixels, masks, classes)
    for one, other in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert len(found) == len(expected) and all(x.isfinite().all() for x in found)


@pytest.mark.parametrize("missing", ["M2F_HEAD_DIM", "M2F_POINTS", "M2F_LEVELS", "M2F_DTYPE", "M2F_ENTRY"])
def test_deformable_attention_asks_for_what_it_will_run(missing, carried):
    """The backward kernel (entry 1) too, if there will be gradients; only then."""
    inputs = make_inputs(LEVELS[:2], dtype=torch.float32)
    here = {"M2F_HEAD_DIM": inputs[0].shape[-1], "M2F_POINTS": inputs[3].shape[4], "M2F_LEVELS": 2}
    here |= {"M2F_DTYPE": "float", "M2F_ENTRY": 1}
    usual = {"M2F_HEAD_DIM": 32, "M2F_LEVELS": 3, "M2F_POINTS": 4, "M2F_DTYPE": "float", "M2F_ENTRY": 0}
    carried(lambda defines: defines == usual or defines.get(missing) != here[missing])
    with pytest.warns(RuntimeWarning, match="Deformable attention runs in plain PyTorch.*not carried"):
        found = ms_deform_attn(*inputs)
    expected = ms_deform_attn_reference(*inputs)
    torch.testing.assert_close(found, expected)
    leaves = [x for x in inputs if isinstance(x, torch.Tensor)]
    gradients = [torch.autograd.grad(out.square().sum(), leaves) for out in (found, expected)]
    torch.testing.assert_close(*gradients)
    if missing == "M2F_ENTRY":
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")
            warned.clear()
            torch.testing.assert_close(ms_deform_attn(*inputs), expected)
