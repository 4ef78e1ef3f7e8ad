"""The kernel of window attention against its definition in plain PyTorch, and that against transformers' layer."""

import os
import subprocess

import pytest
import torch
from sanitizers import CHECKS, build
from transformers import SwinConfig
from transformers.models.swin.modeling_swin import SwinLayer

from m2f.modeling_m2f.kernels.kernel_sources import CSRC
from m2f.modeling_m2f.kernels.window_attention import WINDOW_ATTENTION, window_attention, window_attention_reference

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")

CPU = torch.device("cpu")
# batch, height, width, heads, head_dim, window, shift: whole windows, partial ones, maps smaller than a window
CASES = [
    (1, 14, 14, 3, 32, 7, 0),
    (2, 23, 16, 2, 32, 7, 3),
    (1, 3, 5, 1, 32, 7, 3),
    (1, 30, 25, 2, 32, 12, 6),
    (2, 10, 13, 2, 8, 3, 1),
    (1, 9, 9, 1, 5, 4, 2),
]
# What wheels carry beside these; compiling all of it would take half a minute.
CARRIED = [(1, 9, 13, 2, 32, 6, 3), (1, 9, 13, 2, 16, 6, 3), (1, 9, 15, 2, 16, 7, 3), (1, 13, 25, 2, 16, 12, 6)]


def make_inputs(case, dtype=torch.float64, seed=0):
    batch, height, width, heads, head_dim, window, _ = case
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape, dtype=dtype):
        return torch.randn(*shape, dtype=torch.float64, generator=draw).to(dtype).requires_grad_()

    cells = window**2
    return (
        normal(batch, height * width, 3, heads, head_dim),
        normal(3, heads, head_dim),
        normal(heads, cells, cells, dtype=torch.promote_types(dtype, torch.float32)),
    )


def run(case, inputs):
    _, height, width, _, head_dim, window, shift = case
    assert WINDOW_ATTENTION.runs_on(CPU, torch.float32, head_dim=head_dim, window=window)
    return window_attention(*inputs, height, width, shift)


@pytest.mark.parametrize("case", [*CASES, *CARRIED])
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 0.02), (torch.float16, 2e-3)]
)
def test_equals_the_definition(case, dtype, tolerance):
    if case in CARRIED and "M2F_ELSEWHERE" not in os.environ:
        pytest.skip("only for libraries built ahead, see kernels_elsewhere.py")
    inputs = make_inputs(case, dtype)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    out, expected = run(case, inputs), window_attention_reference(*wide, case[1], case[2], case[6])
    assert out.dtype == dtype
    grad = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    found = torch.autograd.grad(out, inputs, grad.to(dtype))
    for x, y in zip(found, torch.autograd.grad(expected, wide, grad.to(dtype).double()), strict=True):
        # That of cells which fill up may be nothing but what float32 makes of exp(-100).
        atol = 8 * tolerance * max(1e-9, float(y.abs().max()))
        torch.testing.assert_close(x.double(), y, rtol=tolerance, atol=atol)


@pytest.mark.parametrize("height, width, shift", [(14, 14, 0), (14, 14, 3), (9, 17, 3)])
def test_definition_is_that_of_transformers(height, width, shift):
    config = SwinConfig(embed_dim=24, num_heads=[3], window_size=7)
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    layer = SwinLayer(config, 24, (height, width), 3, shift_size=shift).double()
    attention = layer.attention
    torch.nn.init.normal_(attention.relative_position_bias.relative_position_bias_table)
    layer.layernorm_before, layer.layernorm_after, layer.mlp = (torch.nn.Identity() for _ in range(3))
    layer.mlp.forward = torch.zeros_like
    x = torch.randn(2, height * width, 24, dtype=torch.float64)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    qkv = torch.stack([projection(x) for projection in projections], 2).unflatten(-1, (3, 8))
    padding = torch.stack([projection.bias for projection in projections]).unflatten(-1, (3, 8))
    bias = attention.relative_position_bias().squeeze(0)
    expected, _ = layer(x, (height, width), always_partition=True)
    found = x + attention.o_proj(window_attention_reference(qkv, padding, bias, height, width, shift))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_small_differences():
    case = (2, 5, 4, 2, 3, 3, 1)
    assert torch.autograd.gradcheck(lambda *inputs: run(case, inputs), make_inputs(case))


def test_the_operator_is_a_good_citizen():
    case = (1, 5, 4, 2, 3, 3, 1)
    run(case, make_inputs(case))
    torch.library.opcheck(torch.ops.m2f.window_attention_v1, (*make_inputs(case), 5, 4, 1))


def test_results_do_not_depend_on_the_number_of_threads():
    case = (2, 40, 33, 6, 32, 7, 3)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            inputs = make_inputs(case, torch.float32)
            out = run(case, inputs)
            results.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_nan_stays_in_its_window():
    case = (1, 14, 14, 1, 32, 7, 0)
    inputs = make_inputs(case, torch.float32)
    with torch.no_grad():
        inputs[0][0, 0, 1] = torch.nan  # a key of the first window
        out = run(case, inputs).view(14, 14, 32)
    assert out[:7, :7].isnan().all()
    assert out[7:].isfinite().all() and out[:, 7:].isfinite().all()


def test_an_empty_batch():
    case = (0, 7, 7, 2, 32, 7, 0)
    inputs = make_inputs(case, torch.float32)
    out = run(case, inputs)
    assert out.shape == (0, 49, 64)
    assert torch.autograd.grad(out.sum(), inputs)[2].abs().max() == 0


@pytest.mark.parametrize("checks", CHECKS)
def test_kernel_is_clean_under_the_sanitizers(checks, tmp_path):
    sizes = ("-DM2F_DTYPE=float", "-DM2F_HEAD_DIM=5", "-DM2F_WINDOW=3")
    program = build("window_attention_sanitized.cpp", CSRC / WINDOW_ATTENTION.file, tmp_path, checks, *sizes)
    result = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
