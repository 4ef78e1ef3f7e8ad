"""Multi-scale deformable attention on CPU tensors: from them to csrc/ms_deform_attn_cpu.cpp and back."""

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.c_arguments import C_TYPES, arithmetic_dtype, integers, pointer, threads
from m2f.modeling_m2f.kernels.cpu_source import CpuSource

MS_DEFORM_ATTN = CpuSource("ms_deform_attn_cpu.cpp", "Deformable attention", C_TYPES)
ENTRIES = ("m2f_forward", "m2f_backward")  # M2F_ENTRY of each
LANES = 8  # as in the source


def cpu_unavailable_reason() -> str | None:
    """Why the kernel cannot run on this machine; None where it can. Compiles it on the first call."""
    return MS_DEFORM_ATTN.unavailable_reason(**usual_definitions())


@torch.compiler.assume_constant_result  # as `CpuSource.runs_on`
def size_unavailable_reason(
    dtype: torch.dtype, head_dim: int, levels: int, points: int, with_gradients: bool
) -> str | None:
    """Why there is no kernel for tensors of these sizes and type, forward and, `with_gradients`, backward; None where
    there is. A machine without a compiler has those alone that a wheel brings."""
    for entry in ENTRIES if with_gradients else ENTRIES[:1]:
        reason = MS_DEFORM_ATTN.unavailable_reason(dtype, **_sizes(entry, head_dim, levels, points))
        if reason is not None:
            return reason
    return None


def usual_definitions(dtype: torch.dtype = torch.float32, entry: str = "m2f_forward", head_dim: int = 32) -> dict:
    """Arguments of `MS_DEFORM_ATTN` for the 3 levels and 4 points of every configuration."""
    return {"dtype": dtype, **_sizes(entry, head_dim, 3, 4)}


def forward(
    value: Tensor, spatial_shapes: list[int], reference_points: Tensor, sampling_offsets: Tensor, logits: Tensor
) -> Tensor:
    """(B, Q, M*D); arguments as in `ms_deform_attn_reference`, with spatial_shapes as H_0, W_0, H_1, ...,
    value, offsets and logits of one type, and reference points of its `arithmetic_dtype`."""
    inputs = [x.contiguous() for x in (value, reference_points, sampling_offsets, logits)]
    batch, queries, heads = sampling_offsets.shape[:3]
    out = value.new_empty(batch, queries, heads * value.shape[-1])
    if not (out.numel() and value.numel() and logits.numel()):
        return out.zero_()  # nothing to write, or sums of nothing
    sizes = _sizes_and_threads(value, spatial_shapes, reference_points, queries, logits)
    results = (_value_by_head(value), out)
    _function("m2f_forward", value, sampling_offsets)(*map(pointer, (*inputs, *results)), *sizes)
    return out


def backward(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: list[int],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    logits: Tensor,
    need_value: bool,
    need_reference: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of value, reference points, offsets and logits; an empty tensor for one that is not needed."""
    dtype = arithmetic_dtype(value.dtype)
    inputs = [x.contiguous() for x in (grad_out, value, reference_points, sampling_offsets, logits)]
    batch, queries, heads, levels = sampling_offsets.shape[:4]
    grad_value = torch.zeros(value.shape if need_value else (0,), dtype=value.dtype)
    # Summed over heads here, because different threads work on them.
    grad_reference = torch.zeros((batch, heads, queries, levels, 2) if need_reference else (0,), dtype=dtype)
    is_empty = not (grad_out.numel() and value.numel() and logits.numel())
    make = torch.zeros if is_empty else torch.empty
    grad_offsets = make(sampling_offsets.shape, dtype=value.dtype)
    grad_logits = make(logits.shape, dtype=value.dtype)
    if not is_empty:
        weights = torch.empty(heads, -(-queries // LANES), logits.shape[-1], LANES, dtype=dtype)
        wanted = (grad_value if need_value else None, grad_reference if need_reference else None)
        results = (_value_by_head(value), weights, *wanted, grad_offsets, grad_logits)
        _function("m2f_backward", value, sampling_offsets)(
            *map(pointer, (*inputs, *results)),
            *_sizes_and_threads(value, spatial_shapes, reference_points, queries, logits),
        )
    if need_reference:
        grad_reference = grad_reference.sum(1).sum_to_size(reference_points.shape)
    return grad_value, grad_reference, grad_offsets, grad_logits


def _value_by_head(value: Tensor) -> Tensor:
    """Room for the kernel's copy of one image's value, (M, S, D)."""
    _, cells, heads, head_dim = value.shape
    return torch.empty(heads, cells, head_dim, dtype=arithmetic_dtype(value.dtype))


def _sizes(entry: str, head_dim: int, levels: int, points: int) -> dict[str, int]:
    """What the source is compiled for beside a type."""
    return {"head_dim": head_dim, "levels": levels, "points": points, "entry": ENTRIES.index(entry)}


def _function(entry: str, value: Tensor, sampling_offsets: Tensor):
    sizes = _sizes(entry, value.shape[-1], *sampling_offsets.shape[3:5])
    return getattr(MS_DEFORM_ATTN.library(value.dtype, **sizes), entry)


def _sizes_and_threads(
    value: Tensor, spatial_shapes: list[int], reference_points: Tensor, queries: int, logits: Tensor
) -> tuple:
    batch, cells, heads, head_dim = value.shape
    sizes = [batch, cells, heads, queries, reference_points.shape[0], *spatial_shapes]
    return integers(*sizes), *threads(logits.numel() * 4 * head_dim)
