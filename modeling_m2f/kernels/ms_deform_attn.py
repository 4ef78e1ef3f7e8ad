"""The one entry to multi-scale deformable attention: checks, and the choice between kernel and plain PyTorch.

CPU tensors go to the C++ kernel, everything else to the reference. The environment variable M2F_KERNELS decides
otherwise: `reference` never uses a kernel, `compiled` raises where there is none, `auto` (default) warns once and uses
the reference.
"""

import functools
import os
import warnings

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.cpu_compiler import KernelUnavailableError
from m2f.modeling_m2f.kernels.cpu_kernel import arithmetic_dtype, cpu_unavailable_reason
from m2f.modeling_m2f.kernels.ms_deform_attn_op import define_operator
from m2f.modeling_m2f.kernels.ms_deform_attn_reference import ms_deform_attn_reference

CHOICES = ("auto", "reference", "compiled")


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
        KernelUnavailableError: M2F_KERNELS=compiled and there is no kernel for the device.
    """
    value, sampling_offsets, attention_logits = _common_dtype(value, sampling_offsets, attention_logits)
    _check(value, spatial_shapes, reference_points, sampling_offsets, attention_logits)
    if not _use_kernel(value.device.type):
        return ms_deform_attn_reference(value, spatial_shapes, reference_points, sampling_offsets, attention_logits)
    dtype = value.dtype
    if dtype == torch.float16:  # processors have no arithmetic for it; float32 holds every float16
        value, sampling_offsets, attention_logits = value.float(), sampling_offsets.float(), attention_logits.float()
    out = torch.ops.m2f.ms_deform_attn_v1(
        value,
        [length for shape in spatial_shapes for length in shape],
        reference_points.to(arithmetic_dtype(dtype)),
        sampling_offsets,
        attention_logits,
    )
    return out.to(dtype)


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


@torch.compiler.assume_constant_result
def _use_kernel(device_type: str) -> bool:
    choice = os.environ.get("M2F_KERNELS", "auto")
    if choice not in CHOICES:
        raise ValueError(f"M2F_KERNELS={choice!r} is unknown; use one of {', '.join(CHOICES)}.")
    if choice == "reference":
        return False
    reason = kernel_unavailable_reason(device_type)
    if reason is None:
        define_operator()
        return True
    if choice == "compiled":
        raise KernelUnavailableError(f"M2F_KERNELS=compiled, but there is no kernel for {device_type}: {reason}")
    _warn_once(f"Deformable attention runs in plain PyTorch on {device_type}, which is slower: {reason}")
    return False


@functools.cache
def _warn_once(message: str):
    warnings.warn(message, RuntimeWarning, stacklevel=2)


@functools.cache
def kernel_unavailable_reason(device_type: str) -> str | None:
    """Why there is no kernel for a kind of device on this machine; None where there is one."""
    if device_type != "cpu":
        return f"there is no kernel for {device_type} devices"
    return cpu_unavailable_reason()
