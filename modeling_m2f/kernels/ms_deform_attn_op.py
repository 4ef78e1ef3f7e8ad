"""The kernels of deformable attention as one PyTorch operator, see operators.py. PyTorch picks the CPU's or CUDA's by
the tensors' device; the CUDA's is imported when it is called, see ms_deform_attn_choice.py."""

from collections.abc import Sequence

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.ms_deform_attn_cpu import backward as cpu_backward
from m2f.modeling_m2f.kernels.ms_deform_attn_cpu import forward as cpu_forward
from m2f.modeling_m2f.kernels.ms_deform_attn_reference import ms_deform_attn_reference
from m2f.modeling_m2f.kernels.operators import define, gradients_of_definition

FORWARD = "m2f::ms_deform_attn_v1"
BACKWARD = "m2f::ms_deform_attn_backward_v1"


def forward(
    value: Tensor,
    spatial_shapes: Sequence[int],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """(B, Q, M*D); arguments as in ms_deform_attn_cpu.py."""
    return cpu_forward(value, list(spatial_shapes), reference_points, sampling_offsets, attention_logits)


def backward(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    need_value: bool,
    need_reference: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of value, reference points, offsets and logits; empty where not needed."""
    return cpu_backward(
        grad_out,
        value,
        list(spatial_shapes),
        reference_points,
        sampling_offsets,
        attention_logits,
        need_value,
        need_reference,
    )


def _forward_on_cuda(value, spatial_shapes, reference_points, sampling_offsets, attention_logits):
    from m2f.modeling_m2f.kernels.ms_deform_attn_cuda import forward as cuda_forward

    return cuda_forward(value, _pairs(spatial_shapes), reference_points, sampling_offsets, attention_logits)


def _backward_on_cuda(
    grad_out,
    value,
    spatial_shapes,
    reference_points,
    sampling_offsets,
    attention_logits,
    need_value,
    need_reference,
):
    from m2f.modeling_m2f.kernels.ms_deform_attn_cuda import backward as cuda_backward

    inputs = (value, _pairs(spatial_shapes), reference_points, sampling_offsets, attention_logits)
    grad_value, grad_reference, *others = cuda_backward(grad_out, *inputs, (need_value, need_reference, True, True))
    return (
        grad_value if need_value else value.new_empty(0),
        grad_reference if need_reference else reference_points.new_empty(0),
        *others,
    )


def _pairs(spatial_shapes: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(spatial_shapes[::2], spatial_shapes[1::2], strict=True))


def _fake_forward(value, spatial_shapes, reference_points, sampling_offsets, attention_logits):
    batch, queries, heads = sampling_offsets.shape[:3]
    return value.new_empty(batch, queries, heads * value.shape[-1])


def _fake_backward(
    grad_out, value, spatial_shapes, reference_points, sampling_offsets, attention_logits, need_value, need_reference
):
    return (
        value.new_empty(value.shape if need_value else (0,)),
        reference_points.new_empty(reference_points.shape if need_reference else (0,)),
        sampling_offsets.new_empty(sampling_offsets.shape),
        attention_logits.new_empty(attention_logits.shape),
    )


def _save(ctx, inputs, output):
    value, ctx.spatial_shapes, *others = inputs
    ctx.save_for_backward(value, *others)


def _differentiate(ctx, grad_out):
    value, reference_points, offsets, logits = ctx.saved_tensors
    if torch.is_grad_enabled():  # the gradient is to be differentiated itself
        inputs = (value, _pairs(ctx.spatial_shapes), reference_points, offsets, logits)
        return gradients_of_definition(ms_deform_attn_reference, inputs, ctx.needs_input_grad, grad_out)
    need_value, _, need_reference, need_offsets, need_logits = ctx.needs_input_grad
    grads = torch.ops.m2f.ms_deform_attn_backward_v1(
        grad_out, value, ctx.spatial_shapes, reference_points, offsets, logits, need_value, need_reference
    )
    grad_value, grad_reference, grad_offsets, grad_logits = grads
    return (
        grad_value if need_value else None,
        None,
        grad_reference if need_reference else None,
        grad_offsets if need_offsets else None,
        grad_logits if need_logits else None,
    )


def _flops(value_shape, spatial_shapes, reference_shape, offsets_shape, logits_shape, out_shape=None) -> int:
    """5 N_q K C multiplications and additions, K = L * P samples of a query's head: "because of bilinear interpolation
    and the weighted sum" (Zhu et al., "Deformable DETR", ICLR 2021, appendix A.1)."""
    batch, queries, channels = out_shape
    return 2 * 5 * batch * queries * logits_shape[-1] * channels


def _backward_flops(
    grad_shape, value_shape, spatial_shapes, reference_shape, offsets_shape, logits_shape, *_, **__
) -> int:
    """Those of the forward pass for the value's gradient, and as many for the others', as for a product."""
    return 2 * _flops(value_shape, spatial_shapes, reference_shape, offsets_shape, logits_shape, grad_shape)


def define_operator():
    """Define the two operators; does nothing where this version of them exists."""
    define(FORWARD, forward, _fake_forward, _flops, _forward_on_cuda, (_differentiate, _save))
    define(BACKWARD, backward, _fake_backward, _backward_flops, _backward_on_cuda)
