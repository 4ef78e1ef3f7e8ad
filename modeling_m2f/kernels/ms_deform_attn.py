"""The one entry to multi-scale deformable attention: checks, then a kernel or plain PyTorch, see
ms_deform_attn_choice.py."""

import functools

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.c_arguments import arithmetic_dtype, storage_dtype
from m2f.modeling_m2f.kernels.kernel_policy import explain_reference
from m2f.modeling_m2f.kernels.ms_deform_attn_choice import use_kernel
from m2f.modeling_m2f.kernels.ms_deform_attn_cpu import MS_DEFORM_ATTN, size_unavailable_reason
from m2f.modeling_m2f.kernels.ms_deform_attn_op import define_operator
from m2f.modeling_m2f.kernels.ms_deform_attn_reference import ms_deform_attn_reference

define_operator()


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: list[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """Multi-scale deformable attention; formula and shapes in `ms_deform_attn_reference`.

    Value, offsets and logits have one dtype (under autocast the widest of theirs); reference points are float32, or
    float64 where the others are.

    Returns:
        (B, Q, M * D) in the dtype of `value`.

    Raises:
        ValueError: shapes, devices or dtypes that do not fit; the message has the numbers.
        KernelUnavailableError: M2F_KERNELS=compiled and there is no kernel for the device, dtype or size.
    """
    value, sampling_offsets, attention_logits = _common_dtype(value, sampling_offsets, attention_logits)
    _check(value, spatial_shapes, reference_points, sampling_offsets, attention_logits)
    inputs = (value, reference_points, sampling_offsets, attention_logits)
    if not (use_kernel(value.device, value.dtype) and _size_fits(*inputs)):
        return ms_deform_attn_reference(value, spatial_shapes, reference_points, sampling_offsets, attention_logits)
    dtype = value.dtype
    if value.device.type == "cpu":
        storage = storage_dtype(dtype)
        value, sampling_offsets, attention_logits = (
            x.to(storage) for x in (value, sampling_offsets, attention_logits)
        )
    out = torch.ops.m2f.ms_deform_attn_v1(
        value,
        [length for shape in spatial_shapes for length in shape],
        reference_points.to(arithmetic_dtype(dtype)),
        sampling_offsets,
        attention_logits,
    )
    return out.to(dtype)


def _size_fits(value: Tensor, reference_points: Tensor, offsets: Tensor, logits: Tensor) -> bool:
    _, cells, heads, head_dim = value.shape
    if value.device.type == "cpu":
        learns = any(x.requires_grad for x in (value, reference_points, offsets, logits))
        sizes = (head_dim, *offsets.shape[3:5])
        reason = size_unavailable_reason(storage_dtype(value.dtype), *sizes, torch.is_grad_enabled() and learns)
    else:
        from m2f.modeling_m2f.kernels.ms_deform_attn_cuda import limit_reason

        reason = limit_reason(cells, offsets.shape[1], heads, head_dim)
    return reason is None or explain_reference(value.device, reason, MS_DEFORM_ATTN.what)


def _common_dtype(value: Tensor, offsets: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dtypes = {value.dtype, offsets.dtype, logits.dtype}
    if len(dtypes) == 1:
        return value, offsets, logits
    if not torch.is_autocast_enabled(value.device.type):
        raise ValueError(
            f"value is {value.dtype}, sampling_offsets {offsets.dtype}, attention_logits {logits.dtype}; one dtype is "
            "needed outside autocast."
        )
    widest = functools.reduce(torch.promote_types, dtypes)
    return value.to(widest), offsets.to(widest), logits.to(widest)


def _check(value: Tensor, spatial_shapes, reference_points: Tensor, offsets: Tensor, logits: Tensor):
    devices = {x.device for x in (value, reference_points, offsets, logits)}
    if len(devices) > 1:
        raise ValueError(f"The tensors are on {sorted(map(str, devices))}; one device is needed.")
    if value.dim() != 4 or offsets.dim() != 6:
        raise ValueError(
            f"value is {tuple(value.shape)} and sampling_offsets {tuple(offsets.shape)}; (B, S, M, D) and "
            "(B, Q, M, L, P, 2) are needed."
        )
    batch, cells, heads, _ = value.shape
    queries, levels, points = offsets.shape[1], len(spatial_shapes), offsets.shape[4]
    area = sum(height * width for height, width in spatial_shapes)
    if area != cells:
        raise ValueError(f"spatial_shapes={list(spatial_shapes)} hold {area} cells, but value has {cells}.")
    wanted = {
        "sampling_offsets": (offsets, (batch, queries, heads, levels, points, 2)),
        "attention_logits": (logits, (batch, queries, heads, levels * points)),
        "reference_points": (reference_points, (reference_points.shape[0], queries, levels, 2)),
    }
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}; with the other arguments {shape} is needed.")
    if reference_points.shape[0] not in (1, batch):
        raise ValueError(f"reference_points has batch {reference_points.shape[0]}; 1 or {batch} is needed.")
