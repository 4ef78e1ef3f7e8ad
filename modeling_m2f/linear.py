"""Linear layers on a CPU through oneDNN: the layer `Linear`, and the products that it and others are made of.

`torch.nn.functional.linear` multiplies float32 matrices with MKL, which on many processors does not use their widest
instructions. oneDNN does, and applies an activation while the result is still in the cache. Measured on 2 cores of an
AMD EPYC for the shapes of Swin-T at 640 x 640: 1.0 to 1.4 times as fast, 1.2 to 1.9 times with GELU; the products that
give a weight's gradient are not faster and stay with MKL. In bfloat16 torch uses oneDNN itself; what is saved there
are passes over memory for bias and activation. A type of 16 bits that the processor has no instructions for is
multiplied in float32 (`native_types`).
"""

import functools
import platform
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from m2f.modeling_m2f.kernels.kernel_policy import kernels_choice
from m2f.modeling_m2f.kernels.readable_memory import is_transformed
from m2f.modeling_m2f.native_types import product_dtype
from m2f.modeling_m2f.plain_modules import is_plain

_PLAIN = {"none": lambda x: x, "relu": relu, "gelu": gelu}
_ALGORITHM = {"none": "", "relu": "", "gelu": "none"}  # "none" is the exact GELU, not its tanh form
# Rows below which the layer is too small for the choice to matter.
_FEWEST_ROWS = 32


class _FoundAsLinear(type):
    """Equal to `nn.Linear` where a class is looked up in a table: `torch.ao.quantization.quantize_dynamic`, counters
    of FLOPs and policies of wrapping know layers by their exact class, and pass over any other without a word."""

    def __eq__(cls, other) -> bool:
        return cls is other or (cls is Linear and other is nn.Linear)

    def __hash__(cls) -> int:
        return hash(nn.Linear)


class Linear(nn.Linear, metaclass=_FoundAsLinear):
    """`nn.Linear` with the same parameters, names and numbers, and oneDNN's products.

    A subclass, because adapters (PEFT) and quantisation (torchao, bitsandbytes) take what is an instance of
    `nn.Linear`, replace it or its weight, and call it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        return linear(x, self.weight, self.bias)


def is_plain_linear(layer: nn.Module) -> bool:
    """Whether the layer is its weight and bias and nothing else, so that others may multiply in its place."""
    return is_plain(layer, Linear) or is_plain(layer, nn.Linear)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `torch.nn.functional.linear`."""
    if is_fast(x, weight, *(() if bias is None else (bias,))):
        return _Linear.apply(x, weight, bias)
    return nn.functional.linear(x, weight, bias)


def is_fast(x: Tensor, *weights: Tensor) -> bool:
    """Whether oneDNN is asked: eager, on a CPU, a type that it is there for, no autocast, more than a few rows; and
    not where M2F_KERNELS (see kernel_policy.py) is "reference"."""
    return (
        not (torch.compiler.is_compiling() or is_transformed())
        and x.device.type == "cpu"
        # float16 where it is multiplied in float32: where it has instructions, torch's own path is as fast.
        and (x.dtype in (torch.float32, torch.bfloat16) or product_dtype(x.dtype) != x.dtype)
        and all(weight.dtype == x.dtype and weight.device == x.device for weight in weights)
        # Not those that stand for something else, such as quantised weights or parts on other devices.
        and all(type(tensor) in (Tensor, nn.Parameter) for tensor in (x, *weights))
        and x.shape[-1] * _FEWEST_ROWS <= x.numel()
        and not torch.is_autocast_enabled("cpu")
        and kernels_choice() != "reference"
        and onednn_linear(product_dtype(x.dtype)) is not None
    )


def onednn_linear(dtype: torch.dtype = torch.float32) -> Callable[..., Tensor] | None:
    """torch's operator for a linear layer with an activation, the one that its compiler uses; None where it is not
    there, does not take `dtype` on this processor, or gives something else."""
    return _tried_operator(dtype)


@functools.cache
def _tried_operator(dtype: torch.dtype) -> Callable[..., Tensor] | None:
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if operator is None or not is_x86 or not torch.backends.mkldnn.is_available():
        return None
    # Small integers and their halves: exact in every type, so that only the activation rounds.
    x, weight = torch.arange(-6, 6).view(3, 4) / 2, torch.arange(4, -4, -1).view(2, 4)
    try:
        found = operator(x.to(dtype), weight.to(dtype), None, "gelu", [], "none")
    except (RuntimeError, TypeError):  # no instructions; or another signature, as the operator is not public
        return None
    expected, eps = gelu(x @ weight.T.float()), torch.finfo(dtype).eps
    return operator if torch.allclose(found.float(), expected, rtol=2 * eps, atol=2 * eps) else None


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """activation(x weight^T + bias), without autograd; where `is_fast` does not hold, by torch's own functions.

    Args:
        x: (..., C_in). weight: (C_out, C_in). bias: (C_out,) or None.
        activation: "none", "relu" or "gelu".
    """
    dtype = product_dtype(x.dtype)
    operator = onednn_linear(dtype) if is_fast(x, weight) else None
    if operator is not None:
        wide = (None if tensor is None else tensor.to(dtype) for tensor in (x, weight, bias))
        return operator(*wide, activation, [], _ALGORITHM[activation]).to(x.dtype)
    return _PLAIN[activation](nn.functional.linear(x, weight, bias))


def packed(weight: Tensor, rows: int) -> Tensor:
    """A weight (C_out, C_in) of several products with x of `rows` rows, in the layout that oneDNN would otherwise
    copy it to in each of them; as it is where `is_fast` does not hold."""
    reorder = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
    return weight if reorder is None or not is_fast(weight) else reorder(weight, rows)


def similarities(rows: Tensor, cells: Tensor) -> Tensor:
    """Dot products of each row (B, Q, C) with each cell (B, S, C): (B, Q, S)."""
    if is_fast(rows, cells):
        return torch.stack([_Linear.apply(*pair, None) for pair in zip(rows, cells, strict=True)])
    return rows @ cells.transpose(1, 2)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx, grad: Tensor):
        """Of functions that can be differentiated themselves, for second derivatives."""
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        rows, dtype = grad.reshape(-1, grad.shape[-1]), product_dtype(x.dtype)
        grad_weight = rows.to(dtype).t() @ x.reshape(-1, x.shape[-1]).to(dtype) if need_weight else None
        return (
            linear(grad, weight.t(), None) if need_x else None,
            None if grad_weight is None else grad_weight.to(x.dtype),
            rows.sum(0) if need_bias else None,
        )
