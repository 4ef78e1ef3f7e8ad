"""Functions of autograd that keep their inputs before they compute.

`torch.autograd.Function` keeps them afterwards. A checkpoint that computes again ends as soon as it has all that was
kept, so that here the last function inside it is not computed a second time.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Gradients of the inputs, from that of the result, the inputs, and which of them need one.
Differentiate = Callable[[Tensor, tuple[Tensor, ...], Sequence[bool]], Sequence[Tensor | None]]


def with_kept_inputs(
    compute: Callable[..., Tensor], differentiate: Differentiate, shape: Sequence[int], *inputs: Tensor
) -> Tensor:
    """`compute(*inputs)`, of this shape and the type of the first input; `differentiate` gives its gradients."""
    kept = _Kept.apply(differentiate, shape, *inputs)
    return _Computed.apply(kept, compute, *(x.detach() for x in inputs))


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx, differentiate: Differentiate, shape: Sequence[int], *inputs: Tensor) -> Tensor:
        ctx.differentiate = differentiate
        ctx.save_for_backward(*inputs)
        # Stands for the result, whose gradient it gets; one number in memory.
        return inputs[0].new_zeros(()).expand(*shape)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return None, None, *ctx.differentiate(grad, ctx.saved_tensors, ctx.needs_input_grad[2:])


class _Computed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kept: Tensor, compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.inputs = len(inputs)
        return compute(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, None, *[None] * ctx.inputs
