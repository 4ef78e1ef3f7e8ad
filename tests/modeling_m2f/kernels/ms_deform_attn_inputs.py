"""Inputs of deformable attention on a CPU, and the comparison with its plain PyTorch definition in float64, which is
the truth for every dtype and device."""

import torch

from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn
from m2f.modeling_m2f.kernels.ms_deform_attn_reference import ms_deform_attn_reference

LEVELS = [(5, 7), (1, 1), (13, 3), (2, 9)]
# Of the output and of gradients, relative to their largest value: float32 rounds sums of some hundred products;
# bfloat16 has 8 bits, in its inputs (which the reference gets too) and in its results.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def make_inputs(
    shapes, batch=2, queries=11, heads=3, head_dim=8, points=4, dtype=torch.float64, reference_batch=None, seed=0
):
    """Random inputs; some locations lie outside the map."""
    generator = torch.Generator().manual_seed(seed)
    cells, levels = sum(h * w for h, w in shapes), len(shapes)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    reference = torch.rand((reference_batch or batch, queries, levels, 2), generator=generator, dtype=torch.float64)
    return (
        normal(batch, cells, heads, head_dim).to(dtype).requires_grad_(),
        shapes,
        (1.4 * reference - 0.2).to(torch.promote_types(dtype, torch.float32)).requires_grad_(),
        (2 * normal(batch, queries, heads, levels, points, 2)).to(dtype).requires_grad_(),
        normal(batch, queries, heads, levels * points).to(dtype).requires_grad_(),
    )


def in_float64(inputs):
    return [x if isinstance(x, list) else x.detach().double().requires_grad_() for x in inputs]


def tensors(inputs):
    return [x for x in inputs if not isinstance(x, list)]


def check(inputs, tolerance):
    """Output and all four gradients against float64."""
    exact = in_float64(inputs)
    expected, actual = ms_deform_attn_reference(*exact), ms_deform_attn(*inputs)
    assert actual.dtype == inputs[0].dtype
    direction = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    direction = direction.to(actual.dtype)
    expected_gradients = torch.autograd.grad(expected, tensors(exact), direction.double())
    gradients = torch.autograd.grad(actual, tensors(inputs), direction)
    for name, one, other in zip(
        ("out", "value", "reference", "offsets", "logits"),
        (actual, *gradients),
        (expected, *expected_gradients),
        strict=True,
    ):
        scale = other.abs().max().clamp(min=1e-3)
        assert ((one.double() - other).abs().max() / scale) <= tolerance, name
