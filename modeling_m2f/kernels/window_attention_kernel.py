"""The CPU kernel of window attention: from tensors to csrc/window_attention_cpu.cpp and back, and as one PyTorch
operator, see operators.py."""

import ctypes
import functools

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

from m2f.modeling_m2f.kernels.cpu_library import C_TYPES, integers, pointer, threads
from m2f.modeling_m2f.kernels.operators import define, gradients_of_definition
from m2f.modeling_m2f.kernels.whole_sources import library, unavailable_reason
from m2f.modeling_m2f.kernels.window_attention_reference import window_attention_reference

SOURCE = "window_attention_cpu.cpp"
FORWARD = "m2f::window_attention_v1"
BACKWARD = "m2f::window_attention_backward_v1"


def window_kernel_unavailable_reason(dtype: torch.dtype, head_dim: int, window: int) -> str | None:
    """Why the kernel cannot run on this machine; None where it can. Compiles it on the first call."""
    if dtype not in C_TYPES:
        return f"the CPU kernel has no {dtype}"
    return unavailable_reason(SOURCE, **_defines(dtype, head_dim, window))


def forward(qkv: Tensor, padding: Tensor, bias: Tensor, height: int, width: int, shift: int) -> Tensor:
    """(B, H * W, M * D); arguments as in `window_attention_reference`, bias of the `arithmetic_dtype` of qkv."""
    qkv, padding, bias = (x.contiguous() for x in (qkv, padding, bias))
    batch, cells, _, heads, head_dim = qkv.shape
    out = qkv.new_empty(batch, cells, heads * head_dim)
    if out.numel():
        kernels = _library_of(qkv, bias)
        tensors = (qkv, padding, bias, bias.new_empty(kernels.m2f_wide_bias(heads)), out)
        kernels.m2f_forward(*map(pointer, tensors), *_sizes_and_threads(qkv, bias, height, width, shift))
    return out


def backward(
    grad_out: Tensor, qkv: Tensor, padding: Tensor, bias: Tensor, height: int, width: int, shift: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of qkv, padding and bias."""
    grad_out, qkv, padding, bias = (x.contiguous() for x in (grad_out, qkv, padding, bias))
    if not qkv.numel():
        return torch.empty_like(qkv), torch.zeros_like(padding), torch.zeros_like(bias)
    kernels = _library_of(qkv, bias)
    parts, wide = kernels.m2f_parts(), kernels.m2f_wide_bias(qkv.shape[3])
    grad_qkv, grad_bias = torch.empty_like(qkv), torch.zeros_like(bias)
    grad_padding = bias.new_zeros(parts, *padding.shape)
    tensors = (grad_out, qkv, padding, bias, bias.new_empty(wide), grad_qkv, grad_padding)
    tensors += (bias.new_zeros(parts * wide), grad_bias)
    kernels.m2f_backward(*map(pointer, tensors), *_sizes_and_threads(qkv, bias, height, width, shift))
    return grad_qkv, grad_padding[0].to(padding.dtype), grad_bias


def _defines(dtype: torch.dtype, head_dim: int, window: int) -> dict[str, str | int]:
    return {"M2F_DTYPE": C_TYPES[dtype], "M2F_HEAD_DIM": head_dim, "M2F_WINDOW": window}


@functools.cache
def _library(dtype: torch.dtype, head_dim: int, window: int) -> ctypes.CDLL:
    kernels = library(SOURCE, **_defines(dtype, head_dim, window))
    kernels.m2f_wide_bias.argtypes, kernels.m2f_wide_bias.restype = (ctypes.c_int64,), ctypes.c_int64
    kernels.m2f_parts.restype = ctypes.c_int64
    return kernels


def _library_of(qkv: Tensor, bias: Tensor) -> ctypes.CDLL:
    return _library(qkv.dtype, qkv.shape[-1], round(bias.shape[-1] ** 0.5))


def _sizes_and_threads(qkv: Tensor, bias: Tensor, height: int, width: int, shift: int) -> tuple:
    batch, cells, _, heads, head_dim = qkv.shape
    work = batch * cells * heads * bias.shape[-1] * head_dim * 2
    return integers(batch, height, width, heads, shift), *threads(work)


def _fake_forward(qkv, padding, bias, height, width, shift):
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[3] * qkv.shape[4])


def _fake_backward(grad_out, qkv, padding, bias, height, width, shift):
    return torch.empty_like(qkv), torch.empty_like(padding), torch.empty_like(bias)


def _save(ctx, inputs, output):
    *tensors, ctx.height, ctx.width, ctx.shift = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad_out):
    if torch.is_grad_enabled():  # the gradient is to be differentiated itself
        inputs = (*ctx.saved_tensors, ctx.height, ctx.width, ctx.shift)
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            return gradients_of_definition(window_attention_reference, inputs, ctx.needs_input_grad, grad_out)
    gradients = torch.ops.m2f.window_attention_backward_v1(
        grad_out, *ctx.saved_tensors, ctx.height, ctx.width, ctx.shift
    )
    return (*gradients, None, None, None)


def _per_window(qkv_shape, bias_shape, height: int, width: int) -> tuple[int, int, int, int]:
    """(B * windows, M, N, D), the shape of the queries, as of the keys and values."""
    window = round(bias_shape[-1] ** 0.5)
    windows = -(-height // window) * -(-width // window)
    return qkv_shape[0] * windows, qkv_shape[3], bias_shape[-1], qkv_shape[4]


def _flops(qkv_shape, padding_shape, bias_shape, height, width, shift, out_shape=None) -> int:
    """As PyTorch counts attention within the windows, cells that fill up included."""
    return sdpa_flop_count(*[_per_window(qkv_shape, bias_shape, height, width)] * 3)


def _backward_flops(grad_shape, qkv_shape, padding_shape, bias_shape, height, width, shift, out_shape=None) -> int:
    return sdpa_backward_flop_count(*[_per_window(qkv_shape, bias_shape, height, width)] * 4)


def define_window_operator():
    """Define the two operators; does nothing where this version of them exists."""
    define(FORWARD, forward, _fake_forward, _flops, autograd=(_differentiate, _save))
    define(BACKWARD, backward, _fake_backward, _backward_flops)
