"""How fast a machine multiplies matrices, and how many multiplications a model needs: together, the least time."""

import time
from collections.abc import Callable
from math import prod

import torch
from torch.utils.flop_counter import FlopCounterMode

from m2f.modeling_m2f.linear import onednn_linear

# M = N = K of the product that is timed: large enough for the full rate.
EDGE = 3072


def matrix_rate(dtype: torch.dtype, device: str, seconds: float = 1.0) -> float:
    """Floating point operations a second of a large matrix product, by the fastest way that torch has: the median of
    what fits into `seconds`."""
    a, b = (torch.randn(EDGE, EDGE, device=device).to(dtype) for _ in range(2))
    ways = [lambda: a @ b]
    if device == "cpu" and dtype == torch.float32 and onednn_linear() is not None:
        ways.append(lambda: onednn_linear()(a, b, None, "none", [], ""))
    return 2 * EDGE**3 / min(_median_seconds(way, device, seconds) for way in ways)


def _median_seconds(work: Callable[[], object], device: str, budget: float) -> float:
    found, start = [], time.perf_counter()
    work()
    while len(found) < 3 or time.perf_counter() - start < budget:
        begin = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
    return sorted(found)[len(found) // 2]


def matrix_operations(work: Callable[[], object]) -> int:
    """Floating point operations in the matrix products, convolutions and attentions of `work`, those of the project's
    own operators included. Deformable sampling is no matrix product and does not count."""
    work()  # defines the operators
    # What torch's counter does not know.
    counted = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    if hasattr(torch.ops.m2f, "window_attention_v1"):
        counted[torch.ops.m2f.window_attention_v1] = _window_attention
    if onednn_linear() is not None:
        counted[torch.ops.mkldnn._linear_pointwise] = _linear
    with FlopCounterMode(display=False, custom_mapping=counted) as counter:
        work()
    return counter.get_total_flops()


def _linear(x_shape, weight_shape, *others, out_shape=None, **named) -> int:
    return 2 * prod(x_shape) * weight_shape[0]


def _attention(query_shape, key_shape, value_shape, *others, out_shape=None, **named) -> int:
    batch, heads, queries, head_dim = query_shape
    return 2 * batch * heads * queries * key_shape[2] * (head_dim + value_shape[3])


def _window_attention(qkv_shape, padding_shape, bias_shape, *others, out_shape=None, **named) -> int:
    batch, cells, _, heads, head_dim = qkv_shape
    return 2 * 2 * batch * cells * heads * head_dim * bias_shape[-1]
