"""Normalisation, feed-forward network and residual connection in one step, a block of rows at a time.

Inside, a feed-forward network is four times as wide as its input. A block of rows is small enough to stay in the
cache from the normalisation to the sum, so that nothing of that width is ever written to memory; and because the
backward pass computes it again, nothing of it is kept, only the input (one matrix product of the three that the
backward pass needs anyway is added).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from m2f.modeling_m2f.kept_inputs import with_kept_inputs
from m2f.modeling_m2f.linear import is_fast, is_plain_linear, product
from m2f.modeling_m2f.native_types import product_dtype
from m2f.modeling_m2f.plain_modules import is_plain
from m2f.modeling_m2f.recompute import recomputed

# Fewer make thin products of the weights' gradients; with more, what is inside no longer fits into a cache.
BLOCK_ROWS = 3072


class FeedForward(NamedTuple):
    """The modules of a network, and how they are put together.

    Args:
        norm: normalises the input. fc1, fc2: the two linear layers.
        activation: between them, "relu" or "gelu".
        adds_normalised: the sum is norm(x) + ffn(norm(x)), as where norms follow residuals (Deformable DETR); else
            x + ffn(norm(x)), as where they come first (Swin).
    """

    norm: nn.LayerNorm
    fc1: nn.Linear
    fc2: nn.Linear
    activation: str
    adds_normalised: bool

    def is_fast(self, x: Tensor) -> bool:
        """Whether `apply` may take the place of the modules."""
        layers = (self.fc1, self.fc2)
        return (
            # Sums over blocks, as gradients of weights are here, are not for 16 bits.
            (x.dtype == torch.float32 or not torch.is_grad_enabled())
            and is_plain(self.norm, nn.LayerNorm)
            and all(is_plain_linear(layer) and layer.bias is not None for layer in layers)
            and all(isinstance(tensor, Tensor) for tensor in (self.norm.weight, self.norm.bias))
            and is_fast(x, *self._weights())
        )

    def apply(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        options = self.norm.eps, self.activation, self.adds_normalised
        compute, differentiate = partial(_compute, options), partial(_differentiate, options)
        return with_kept_inputs(compute, differentiate, x.shape, x, *self._weights())

    def _weights(self) -> list[Tensor]:
        # By name: what is registered anew, as after pruning, changes the order of `parameters()`.
        return [tensor for layer in (self.norm, self.fc1, self.fc2) for tensor in (layer.weight, layer.bias)]


def feed_forward(
    layer: nn.Module,
    x: Tensor,
    plain: Callable[[Tensor], Tensor],
    network: FeedForward | None,
    recomputes: bool,
    random: bool,
) -> Tensor:
    """A layer's feed-forward network with normalisation and residual connection: in one step, or by its modules.

    Args:
        layer: whose network it is. x: (..., C).
        plain: the network by its modules, (..., C) -> (..., C).
        network: the same in one step, which keeps only the input; None where the modules do something else, or drop
            some of it.
        recomputes: whether the backward pass may compute again what is inside.
        random: whether `plain` may draw random numbers, which have to be the same again.
    """
    if layer.training and torch.is_grad_enabled() and not recomputes:
        return plain(x)
    if network is not None and network.is_fast(x):
        return network.apply(x)
    return recomputed(layer, plain, x, random=random)


Options = tuple[float, str, bool]  # the norm's epsilon, the activation, and whether it adds the normalised input


def _compute(options: Options, x: Tensor, *weights: Tensor) -> Tensor:
    eps, activation, adds_normalised = options
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    dtype = product_dtype(x.dtype)
    norm_weight, norm_bias, weight1, bias1, weight2, bias2 = (w.to(dtype) for w in weights)
    for rows, to in zip(_blocks(x), _blocks(out), strict=True):
        rows = rows.to(dtype)
        normalised = layer_norm(rows, rows.shape[-1:], norm_weight, norm_bias, eps)
        inner = product(normalised, weight1, bias1, activation)
        torch.add(normalised if adds_normalised else rows, product(inner, weight2, bias2), out=to)
    return out


def _differentiate(
    options: Options, grad: Tensor, inputs: tuple[Tensor, ...], needed: Sequence[bool]
) -> Sequence[Tensor | None]:
    if torch.is_grad_enabled():  # for second derivatives, which the steps of `_gradients` do not have
        wanted = [tensor for tensor, need in zip(inputs, needed, strict=True) if need]
        found = iter(torch.autograd.grad(_plain(*_joined(inputs, options)), wanted, grad, create_graph=True))
        return [next(found) if need else None for need in needed]
    return _gradients(grad, *_joined(inputs[:-1], options))


def _joined(inputs: tuple[Tensor, ...], options: Options) -> list[Any]:
    return [*inputs, *options]


def _plain(x, norm_weight, norm_bias, weight1, bias1, weight2, bias2, eps, activation, adds_normalised) -> Tensor:
    normalised = layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
    inner = _ACTIVATION[activation](nn.functional.linear(normalised, weight1, bias1))
    return (normalised if adds_normalised else x) + nn.functional.linear(inner, weight2, bias2)


def _gradients(
    grad, x, norm_weight, norm_bias, weight1, bias1, weight2, eps, activation, adds_normalised
) -> tuple[Tensor, ...]:
    """Of x, of the weights, and of the second bias, a block of rows after the other."""
    grads = [torch.zeros_like(w) for w in (norm_weight, norm_bias, weight1, bias1, weight2)]
    grads.append(torch.zeros_like(norm_weight))  # of the second bias
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    size = x.shape[-1:]
    for rows, grad_rows, to in zip(*map(_blocks, (x, grad, grad_x)), strict=True):
        normalised, mean, rstd = torch.native_layer_norm(rows, size, norm_weight, norm_bias, eps)
        before = product(normalised, weight1, bias1)
        inner = _ACTIVATION[activation](before)
        grad_before = _DERIVATIVE[activation](product(grad_rows, weight2.t()), before)
        grads[2].addmm_(grad_before.t(), normalised)
        grads[3] += grad_before.sum(0)
        grads[4].addmm_(grad_rows.t(), inner)
        grads[5] += grad_rows.sum(0)
        grad_normalised = product(grad_before, weight1.t())
        if adds_normalised:
            grad_normalised += grad_rows
        grad_block, *grad_norm = torch.ops.aten.native_layer_norm_backward(
            grad_normalised, rows, size, mean, rstd, norm_weight, norm_bias, [True] * 3
        )
        grads[0] += grad_norm[0]
        grads[1] += grad_norm[1]
        torch.add(grad_block, 0 if adds_normalised else grad_rows, out=to)
    return grad_x, *grads


_ACTIVATION = {"relu": torch.relu, "gelu": nn.functional.gelu}
_DERIVATIVE = {
    "relu": lambda grad, before: torch.ops.aten.threshold_backward(grad, before, 0),
    "gelu": lambda grad, before: torch.ops.aten.gelu_backward(grad, before),
}


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    """Rows (R, C) of x (..., C), a few at a time."""
    return x.reshape(-1, x.shape[-1]).split(BLOCK_ROWS)
