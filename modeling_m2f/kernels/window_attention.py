"""Attention within the windows of a feature map by csrc/window_attention_cpu.cpp on a CPU, as one PyTorch operator
(operators.py), and its definition in plain PyTorch.

Devices without the kernel have no need of the definition: transformers' own layer runs there, and their
`scaled_dot_product_attention` is not slow for windows.
"""

import ctypes
import functools

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

from m2f.modeling_m2f.kernels.c_arguments import C_TYPES, arithmetic_dtype, integers, pointer, storage_dtype, threads
from m2f.modeling_m2f.kernels.cpu_source import CpuSource
from m2f.modeling_m2f.kernels.operators import define, gradients_of_definition
from m2f.modeling_m2f.kernels.portable_graph import is_portable
from m2f.modeling_m2f.kernels.readable_memory import is_transformed

WINDOW_ATTENTION = CpuSource("window_attention_cpu.cpp", "Window attention", C_TYPES)
FORWARD = "m2f::window_attention_v1"
BACKWARD = "m2f::window_attention_backward_v1"
# What separates the regions of a window that were no neighbours before the shift, as in the original Swin.
SEPARATION = -100.0


def dtype_of_projections(x: Tensor) -> torch.dtype:
    """The type in which the kernel gets what linear layers make of x, under autocast too, which leaves float64."""
    is_cast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    return storage_dtype(torch.get_autocast_dtype("cpu") if is_cast else x.dtype)


def window_attention(qkv: Tensor, padding: Tensor, bias: Tensor, height: int, width: int, shift: int) -> Tensor:
    """(B, H * W, M * D) in the dtype of qkv; arguments as in `window_attention_reference`."""
    if is_portable() or (not torch.compiler.is_compiling() and is_transformed()):
        return window_attention_reference(qkv, padding, bias, height, width, shift)
    storage = storage_dtype(qkv.dtype)
    out = torch.ops.m2f.window_attention_v1(
        qkv.to(storage), padding.to(storage), bias.to(arithmetic_dtype(storage)), height, width, shift
    )
    return out.to(qkv.dtype)


def window_attention_reference(
    qkv: Tensor, padding: Tensor, bias: Tensor, height: int, width: int, shift: int
) -> Tensor:
    """Shifted-window attention of a feature map.

    Args:
        qkv: (B, H * W, 3, M, D), queries, keys and values of M heads.
        padding: (3, M, D), those of the cells that fill the map up to whole windows.
        bias: (M, N, N), added to the scores of the N = window ** 2 cells of a window.
        height, width: H and W.
        shift: cells by which the windows are shifted, in [0, window).

    Returns:
        (B, H * W, M * D).
    """
    window = int(bias.shape[-1] ** 0.5)
    cells, mask = _windows(height, width, window, shift, qkv.device)
    extended = torch.cat([qkv, padding.expand(qkv.shape[0], 1, -1, -1, -1)], 1)
    query, key, value = _windows_of(extended, cells).permute(3, 0, 1, 4, 2, 5)  # (B, windows, M, N, D) each
    scores = bias if mask is None else bias + mask[:, None].to(bias.dtype)
    attended = _attend(query, key, value, scores.to(query.dtype)).transpose(2, 3).flatten(3).flatten(1, 2)
    if is_portable():  # without scattering
        return attended.index_select(1, _place_in_windows(height, width, window, shift, qkv.device))
    inside = (cells.flatten() < height * width).nonzero().flatten()
    out = attended.new_empty(len(qkv), height * width, attended.shape[-1])
    return out.index_copy(1, cells.flatten()[inside], attended[:, inside])


def _windows_of(x: Tensor, cells: Tensor) -> Tensor:
    """(B, S, ...) -> (B, windows, N, ...)."""
    return x.index_select(1, cells.flatten()).unflatten(1, (-1, cells.shape[1]))


def _attend(query: Tensor, key: Tensor, value: Tensor, scores: Tensor) -> Tensor:
    if not is_portable():
        return scaled_dot_product_attention(query, key, value, attn_mask=scores)
    products = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1) + scores
    return products.softmax(-1) @ value


def _place_in_windows(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """(H * W,) where in its window's row of `_windows` each cell of the map stands."""
    rows, columns = (_whole(length, window) for length in (height, width))
    y, x = (
        (torch.arange(length, device=device) - shift) % _number(padded, device)
        for length, padded in ((height, rows), (width, columns))
    )
    across = columns // window
    row, column = (y // window * across * window + y % window) * window, x // window * window * window + x % window
    # Inductor compiles no index of which it does not know that it is not negative (torch 2.13).
    return (row[:, None] + column).clamp(min=0).flatten()


def _windows(height: int, width: int, window: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """(windows, N) index of each cell, H * W for one that fills up, and (windows, N, N) what separates regions."""
    rows, columns = (_whole(length, window) for length in (height, width))
    y, x = ((torch.arange(n, device=device) + shift) % _number(n, device) for n in (rows, columns))
    cells = torch.where((y < height)[:, None] & (x < width), y[:, None] * width + x, height * width)
    cells = _cut(cells, window)
    if not shift:
        return cells, None
    region = 3 * _parts(rows, window, shift, device)[:, None] + _parts(columns, window, shift, device)
    region = _cut(region, window)
    return cells, (region[:, None] != region[:, :, None]) * SEPARATION


def _parts(length: int, window: int, shift: int, device: torch.device) -> Tensor:
    position, end = torch.arange(length, device=device), _number(length, device)
    return (position >= end - window).long() + (position >= end - shift).long()


def _number(number: int, device: torch.device) -> Tensor:
    """As a tensor: of some operators with a number that depends on a graph's input exporters know no form."""
    return torch.full((), number, dtype=torch.int64, device=device)


def _whole(length: int, window: int) -> int:
    """The next multiple of the window; of no negative quotient, because ONNX rounds those of integers towards 0."""
    return (length + window - 1) // window * window


def _cut(grid: Tensor, window: int) -> Tensor:
    """(H, W) -> (windows, N)."""
    return grid.unflatten(0, (-1, window)).unflatten(2, (-1, window)).transpose(1, 2).flatten(2).flatten(0, 1)


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
    inputs = (grad_out, qkv, padding, bias, bias.new_empty(wide))
    outputs = (grad_qkv, grad_padding, bias.new_zeros(parts * wide), grad_bias)
    kernels.m2f_backward(
        *map(pointer, inputs), *map(pointer, outputs), *_sizes_and_threads(qkv, bias, height, width, shift)
    )
    return grad_qkv, grad_padding[0].to(padding.dtype), grad_bias


@functools.cache
def _library(dtype: torch.dtype, head_dim: int, window: int) -> ctypes.CDLL:
    kernels = WINDOW_ATTENTION.library(dtype, head_dim=head_dim, window=window)
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


define(FORWARD, forward, _fake_forward, _flops, autograd=(_differentiate, _save))
define(BACKWARD, backward, _fake_backward, _backward_flops)
