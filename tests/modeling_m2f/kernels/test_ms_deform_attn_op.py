"""The op as PyTorch's tools see it: opcheck, compile, export, autocast."""

import pytest
import torch
from ms_deform_attn_inputs import LEVELS, make_inputs, tensors

from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")


def test_opcheck():
    value, _, *others = make_inputs([(3, 4), (2, 2)])
    results = torch.library.opcheck(torch.ops.m2f.ms_deform_attn_v1.default, (value, [3, 4, 2, 2], *others))
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_without_a_graph_break(backend):
    inputs = make_inputs(LEVELS[:2])
    expected = ms_deform_attn(*inputs)
    gradients = torch.autograd.grad(expected.sum(), tensors(inputs))
    out = torch.compile(ms_deform_attn, fullgraph=True, backend=backend)(*inputs)
    torch.testing.assert_close(out, expected)
    for one, other in zip(torch.autograd.grad(out.sum(), tensors(inputs)), gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_export():
    class Attend(torch.nn.Module):
        def forward(self, value, reference, offsets, logits):
            return ms_deform_attn(value, LEVELS[:2], reference, offsets, logits)

    inputs = make_inputs(LEVELS[:2])
    program = torch.export.export(Attend(), tuple(tensors(inputs)))
    assert any("ms_deform_attn_v1" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*tensors(inputs)), ms_deform_attn(*inputs))


def test_autocast_widens_and_keeps_locations():
    value, shapes, reference, offsets, logits = make_inputs(LEVELS[:2], dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = ms_deform_attn(value.bfloat16(), shapes, reference, offsets, logits)
        half = ms_deform_attn(value.bfloat16(), shapes, reference, offsets.bfloat16(), logits.bfloat16())
    assert mixed.dtype == torch.float32 and half.dtype == torch.bfloat16
    torch.testing.assert_close(mixed, ms_deform_attn(value.bfloat16().float(), shapes, reference, offsets, logits))
