"""How fast a machine multiplies matrices, and how many multiplications a model needs: together, the least time."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from m2f.bench.paired_timing import paired_seconds
from m2f.modeling_m2f.linear import onednn_linear

# M = N = K of the product that is timed: large enough for the full rate.
EDGE = 3072
OPERATIONS = 2 * EDGE**3


def matrix_product(dtype: torch.dtype, device: str) -> Callable[[], object]:
    """A product of `OPERATIONS` floating point operations, in the fastest way that torch has for it."""
    a, b = (torch.randn(EDGE, EDGE, device=device).to(dtype) for _ in range(2))
    ways = [lambda: a @ b]
    operator = onednn_linear() if device == "cpu" and dtype == torch.float32 else None
    if operator is not None:
        ways.append(lambda: operator(a, b, None, "none", [], ""))
    seconds = paired_seconds({str(i): way for i, way in enumerate(ways)}, 3, device)
    return min(zip(seconds.values(), ways, strict=True), key=lambda pair: min(pair[0]))[1]


def matrix_operations(work: Callable[[], object]) -> int:
    """Floating point operations in the matrix products, convolutions and attentions of `work`, those of the project's
    own operators included. Deformable sampling is no matrix product and does not count."""
    work()  # defines the operators
    # What torch's counter does not know.
    counted: dict[Any, Callable[..., int]] = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    if hasattr(torch.ops.m2f, "window_attention_v1"):
        counted[torch.ops.m2f.window_attention_v1] = _window_attention
    if hasattr(torch.ops.m2f, "masked_attention_v1"):
        counted[torch.ops.m2f.masked_attention_v1] = _masked_attention
    if hasattr(torch.ops.m2f, "convolve_3x3_v2"):
        counted[torch.ops.m2f.convolve_3x3_v2] = _convolution
    if onednn_linear() is not None:
        counted[torch.ops.mkldnn._linear_pointwise] = _linear
    with FlopCounterMode(display=False, custom_mapping=counted) as counter:
        work()
    return counter.get_total_flops()


def _linear(x_shape, weight_shape, *others, out_shape=None, **named) -> int:
    return 2 * prod(x_shape) * weight_shape[0]


def _convolution(x_shape, weight_shape, *others, out_shape=None, **named) -> int:
    """Of the convolution as it is defined; Winograd's method needs a quarter of them."""
    return 2 * x_shape[0] * prod(x_shape[2:]) * prod(weight_shape)


def _attention(query_shape, key_shape, value_shape, *others, out_shape=None, **named) -> int:
    batch, heads, queries, head_dim = query_shape
    return 2 * batch * heads * queries * key_shape[2] * (head_dim + value_shape[3])


def _masked_attention(query_shape, key_shape, *others, out_shape=None, **named) -> int:
    return 2 * 2 * prod(query_shape) * key_shape[1]


def _window_attention(qkv_shape, padding_shape, bias_shape, *others, out_shape=None, **named) -> int:
    batch, cells, _, heads, head_dim = qkv_shape
    return 2 * 2 * batch * cells * heads * head_dim * bias_shape[-1]
