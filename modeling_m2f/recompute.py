"""Cheap activations are computed again in the backward pass instead of being kept from the forward pass.

The widest activations are those inside the feed-forward networks, four times as wide as their inputs, and making them
again takes one matrix product of the three that such a network needs for its backward pass. Behind a backbone that
does not learn, most of what is left are the decoders' maps, and those are made again too (`recompute_decoders`).
`gradient_checkpointing` goes further: it keeps nothing but the layers' inputs, at the price of a whole forward pass.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from m2f.modeling_m2f.kernels.readable_memory import is_transformed
from m2f.modeling_m2f.wide_products import with_same_products


def recomputed(module: nn.Module, function: Callable[..., Any], *inputs: Any, random: bool = False) -> Any:
    """`function(*inputs)`; of what autograd would keep inside, only the inputs are kept.

    Args:
        module: whose part `function` is. Nothing changes in evaluation, nor for a layer with gradient checkpointing,
            which is computed again as a whole.
        random: whether `function` draws random numbers, which have to be the same again.
    """
    is_checkpointed = getattr(module, "gradient_checkpointing", False)
    # torch.func has no checkpointing.
    if not module.training or not torch.is_grad_enabled() or is_checkpointed or is_transformed():
        return function(*inputs)
    return checkpoint(with_same_products(function), *inputs, use_reentrant=False, preserve_rng_state=random)


def recomputed_if_asked(module: nn.Module, function: Callable[..., Any], *inputs: Any) -> Any:
    """`recomputed` where `recompute_decoders` asks for it; a compiler decides itself what it keeps."""
    if not module.recomputes_all or torch.compiler.is_compiling():
        return function(*inputs)
    return recomputed(module, function, *inputs)


def recompute_decoders(model: nn.Module):
    """Training computes again what is cheap in feature pyramid, pixel decoder and Transformer decoder.

    The largest maps are those of stride 4: norms and 1x1 convolutions, which make them, cost little, and 3x3
    convolutions, which take them, are not computed again (`kept_inputs`). The Transformer decoder keeps keys and
    values of pixels. With Swin-T a step keeps a quarter less and takes 1.04 times as long: it is not the default.
    """
    for module in model.modules():
        if hasattr(module, "recomputes_all"):
            setattr(module, "recomputes_all", True)  # noqa: B010


def recompute_feedforward(backbone: nn.Module):
    """Applies `recomputed` to the feed-forward networks of the backbone's layers, where they are modules of their own,
    as in Swin. ConvNeXt has none, and ResNet has no such layers."""
    for layer in backbone.modules():
        mlp = getattr(layer, "mlp", None)
        if hasattr(layer, "recomputes"):
            setattr(layer, "recomputes", True)  # noqa: B010 - a layer that sees to it itself
        elif isinstance(layer, GradientCheckpointingLayer) and isinstance(mlp, nn.Module):
            mlp.forward = _RecomputedForward(layer, mlp)


class _RecomputedForward:
    """Stands in for the `forward` of a layer's `mlp`; an object and no closure, so that a copy of the model gets one
    that belongs to the copy, and a copy of the `mlp` alone, as adapters make one, another that runs its weights."""

    def __init__(self, layer: GradientCheckpointingLayer, mlp: nn.Module):
        self.layer = layer
        self.mlp = mlp

    def __call__(self, *inputs: Tensor) -> Tensor:
        mlp = self.mlp
        return recomputed(self.layer, lambda *given: type(mlp).forward(mlp, *given), *inputs, random=True)

    def __deepcopy__(self, memo: dict) -> "_RecomputedForward":
        # Whatever is copied has been noted before its attributes are; the layer is not copied for its mlp's sake.
        return _RecomputedForward(*(memo.get(id(module), module) for module in (self.layer, self.mlp)))
