"""3x3 convolutions on a CPU with a quarter of the multiplications (see kernels/winograd.py).

Measured on 2 cores of an AMD EPYC, 256 channels: 160 x 160 cells in 0.58 and 200 x 336 cells in 0.51 of the time of
torch's convolution. Rounding: a standard error of 1.2e-6 instead of 5e-7, where results are of size 0.6.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.backends.cpu import get_cpu_capability
from torch.nn.functional import conv2d
from torch.utils.flop_counter import conv_flop_count

from m2f.modeling_m2f.kept_inputs import with_kept_inputs
from m2f.modeling_m2f.kernels.operators import define, gradients_of_definition
from m2f.modeling_m2f.kernels.readable_memory import is_transformed
from m2f.modeling_m2f.kernels.winograd import WINOGRAD, convolve_tiles, gradient_of_weight
from m2f.modeling_m2f.linear import is_fast, packed, product
from m2f.modeling_m2f.native_types import product_dtype

OPERATOR = "m2f::convolve_3x3_v2"
WEIGHT_GRADIENT = "m2f::convolve_3x3_weight_gradient_v1"
# Below, transforming the weights costs more than is saved.
_FEWEST_CELLS = 4096


class Conv3x3(nn.Conv2d):
    """`nn.Conv2d`; by Winograd's method if it is a 3x3 convolution without bias that keeps the size, on a CPU that
    multiplies the type in float32, of maps that are large enough; with gradients in float32 alone."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H, W)."""
        # First, because what is asked of sizes is traced too, and must not depend on whether gradients are enabled.
        if is_transformed() or torch.compiler.is_compiling():
            return super().forward(x)
        if self._is_fast(x):
            if self._learns(x):
                shape = (len(x), self.out_channels, *x.shape[2:])
                return with_kept_inputs(torch.ops.m2f.convolve_3x3_v2, _gradients, shape, x, self.weight)
            return torch.ops.m2f.convolve_3x3_v2(x.float(), self.weight.float()).to(x.dtype)
        # Without AVX-512, oneDNN's weight gradients of maps that lie channels last take 2 to 7 times as long.
        is_slow = x.device.type == "cpu" and self._learns(x) and get_cpu_capability() == "AVX2"
        return super().forward(x.contiguous() if is_slow else x)

    def _learns(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)

    def _is_fast(self, x: Tensor) -> bool:
        return (
            is_fast(x, self.weight)
            and product_dtype(x.dtype) == torch.float32
            and (x.dtype == torch.float32 or not self._learns(x))
            and x.shape[2] * x.shape[3] >= _FEWEST_CELLS
            and self.bias is None
            and (self.kernel_size, self.padding, self.padding_mode) == ((3, 3), (1, 1), "zeros")
            and (self.stride, self.dilation, self.groups) == ((1, 1), (1, 1), 1)
            and WINOGRAD.runs_on(x.device)
        )


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    """(B, C, H, W) and (K, C, 3, 3) -> (B, K, H, W), channels last."""
    if not (x.numel() and weight.numel()):
        return _fake(x, weight).zero_()
    return convolve_tiles(x, weight, packed, product)


def _fake(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(len(x), *x.shape[2:], len(weight)).permute(0, 3, 1, 2)


def _weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """(B, C, H, W) and (B, K, H, W) -> (K, C, 3, 3)."""
    if not (x.numel() and grad.numel()):
        return _fake_weight_gradient(x, grad).zero_()
    return gradient_of_weight(x, grad)


def _fake_weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    return x.new_empty(grad.shape[1], x.shape[1], 3, 3)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, grad: Tensor):
    return _gradients(grad, ctx.saved_tensors, ctx.needs_input_grad)


def _gradients(grad: Tensor, inputs: tuple[Tensor, ...], needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
    x, weight = inputs
    need_x, need_weight = needed
    if torch.is_grad_enabled():  # the gradient is to be differentiated itself
        return gradients_of_definition(partial(conv2d, padding=1), inputs, tuple(needed), grad)
    return (
        torch.ops.m2f.convolve_3x3_v2(grad, weight.transpose(0, 1).flip(2, 3)) if need_x else None,
        torch.ops.m2f.convolve_3x3_weight_gradient_v1(x, grad) if need_weight else None,
    )


def _flops(x_shape, weight_shape, out_shape=None) -> int:
    """Those of the convolution that it stands for, as for torch's own, whatever method that takes."""
    return conv_flop_count(x_shape, weight_shape, out_shape)


def _weight_gradient_flops(x_shape, grad_shape, out_shape=None) -> int:
    return conv_flop_count(x_shape, out_shape, grad_shape)


define(OPERATOR, _convolve, _fake, _flops, autograd=(_differentiate, _save))
define(WEIGHT_GRADIENT, _weight_gradient, _fake_weight_gradient, _weight_gradient_flops)
