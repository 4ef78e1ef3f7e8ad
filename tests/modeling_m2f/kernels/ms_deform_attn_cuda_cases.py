"""Inputs of the CUDA kernels, their exact results and the comparison, for the emulation and for GPUs."""

import torch

from m2f.modeling_m2f.kernels.ms_deform_attn_cuda import backward, forward
from m2f.modeling_m2f.kernels.ms_deform_attn_reference import ms_deform_attn_reference

NAMES = ("value", "reference_points", "sampling_offsets", "attention_logits")
ALL = (True, True, True, True)
# Of the largest number in the reference's result. float32: locations up to 131 cells have an error of 2^-17 cells,
# gradients by location add up differences of neighbouring cells, and atomics add rounding in any order. Half types:
# rounding of results, 2^-11 or 2^-8.
TOLERANCES = {torch.float32: 3e-5, torch.float16: 5.2e-4, torch.bfloat16: 4e-3}


def make_queries(levels, heads, points, dtype, batch, queries, reference_batch=None, device="cpu"):
    """Reference points, offsets and logits; locations from outside the map to its inside.

    None is on a knot: there the derivative is not defined.
    """
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(reference_batch or batch, queries, levels, 2, generator=generator) * 1.2 - 0.1
    offsets = torch.randn(batch, queries, heads, levels, points, 2, generator=generator) * 1.5
    logits = torch.randn(batch, queries, heads, levels * points, generator=generator) * 2
    return reference.to(device), offsets.to(device, dtype), logits.to(device, dtype)


def make_inputs(shapes, dtype, head_dim=32, points=4, heads=3, batch=2, queries=5, reference_batch=None, device="cpu"):
    """A list: value, shapes, reference points, offsets, logits."""
    generator = torch.Generator().manual_seed(2)
    value = torch.randn(batch, sum(h * w for h, w in shapes), heads, head_dim, generator=generator)
    rest = make_queries(len(shapes), heads, points, dtype, batch, queries, reference_batch, device)
    return [value.to(device, dtype), shapes, *rest]


def make_grad_out(arguments):
    value, offsets = arguments[0], arguments[3]
    size = (value.shape[0], offsets.shape[1], value.shape[2] * value.shape[3])
    return torch.randn(size, generator=torch.Generator().manual_seed(1)).to(value)


def expected(arguments, grad_out):
    """The reference in float64 on the same numbers: result and the four gradients."""
    value, shapes, *others = arguments
    leaves = [t.double().requires_grad_() for t in (value, *others)]
    wanted = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)  # grid_sample's backward has no deterministic form on CUDA
    try:
        out = ms_deform_attn_reference(leaves[0], shapes, *leaves[1:])
        return out.detach(), torch.autograd.grad(out, leaves, grad_out.double())
    finally:
        torch.use_deterministic_algorithms(wanted)


def assert_near(actual, wanted, dtype, name):
    error = (actual.double() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-3)
    assert error <= TOLERANCES[dtype], f"{name}: {error:.2e} of the largest number"


def check_against_reference(arguments, needs=ALL):
    value, dtype = arguments[0], arguments[0].dtype
    grad_out = make_grad_out(arguments)
    wanted, wanted_grads = expected(arguments, grad_out)
    out = forward(*arguments)
    assert out.dtype == dtype and out.shape == wanted.shape
    assert_near(out, wanted, dtype, "out")
    grads = backward(grad_out, *arguments, needs)
    tensors = (value, *arguments[2:])
    for name, grad, wanted_grad, tensor, need in zip(NAMES, grads, wanted_grads, tensors, needs, strict=True):
        assert (grad is not None) == need
        if need:
            assert grad.dtype == tensor.dtype and grad.shape == tensor.shape
            assert_near(grad, wanted_grad, dtype, name)
