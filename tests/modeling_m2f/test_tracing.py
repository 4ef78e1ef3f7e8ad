"""Programs made of the model by `torch.jit.trace` and `torch.export`: called, saved, loaded elsewhere, called."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_models import corner_mask, small_model

pytest_plugins = ("kernel_fixtures",)
pytestmark = [
    pytest.mark.usefixtures("compiled_kernel"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning"),
]
NAMES = ("class_queries_logits", "masks_queries_logits")


@pytest.fixture(scope="module", params=["resnet", "swin"])
def model(request):
    return small_model(request.param, encoder_layers=1, decoder_layers=2)


def check(found, expected):
    for name in NAMES:  # plain matrix products in place of oneDNN's
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4)


def test_trace(model):
    """It ended in an internal assert. torch traces twice, once without gradients, and compares the graphs."""
    mask = corner_mask((64, 96), [(64, 96), (40, 70)])
    inputs = {"pixel_values": torch.randn(2, 3, 64, 96), "pixel_mask": mask}
    traced = torch.jit.trace(model, example_kwarg_inputs=inputs, strict=False)
    other = {"pixel_values": torch.randn(2, 3, 64, 96), "pixel_mask": mask.flip(0)}
    check(traced(**other), model(**other))
    assert not any("m2f::" in line for line in str(traced.inlined_graph).splitlines() if " = " in line)


def test_trace_as_tuple():
    model = small_model("resnet", encoder_layers=1, decoder_layers=2, return_dict=False)
    pixels = torch.randn(1, 3, 64, 64)
    traced, expected = torch.jit.trace(model, pixels), model(pixels)
    for one, other in zip(traced(pixels), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_programs_are_saved_after_they_were_called_and_run_elsewhere(tmp_path):
    model = small_model("swin", encoder_layers=1, decoder_layers=2)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(pixels)
        exported = torch.export.export(model, (pixels,))
        check(exported.module()(pixels), expected)
        traced = torch.jit.trace(model, pixels, strict=False)
        check(traced(pixels), expected)
    graphs = [part.graph for part in exported.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    used = {str(node.target) for graph in graphs for node in graph.nodes}
    assert {"m2f.ms_deform_attn_v1.default", "m2f.window_attention_v1.default"} <= used
    torch.export.save(exported, tmp_path / "program.pt2")
    traced.save(tmp_path / "program.pt")
    torch.save(pixels, tmp_path / "inputs.pt")
    script = Path(__file__).with_name("traced_program_process.py")
    root = str(Path(__file__).resolve().parents[2])
    subprocess.run(
        [sys.executable, str(script), str(tmp_path)], check=True, env=dict(os.environ, PYTHONPATH=root), timeout=300
    )
    for outputs in torch.load(tmp_path / "outputs.pt"):
        check(dict(zip(NAMES, outputs, strict=True)), expected)
