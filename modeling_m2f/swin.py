"""transformers' Swin backbone with layers that do the same in fewer passes over memory.

The modules, their parameters and names stay transformers' own. Its layer pads the normalised map to whole windows,
rolls it, cuts it into windows, projects and attends there, and undoes it all: six copies, and products for cells that
are thrown away. Here the cells are projected where they are, the attention finds each window's cells itself
(`window_attention`), and the feed-forward network is one step (`feed_forward`). Where one of these does not
apply, a layer is transformers' own; so it is where a hook waits on a module that would not be called here, or would
get cells where it gets windows there.
"""

from itertools import pairwise
from typing import TypeGuard

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import GELUActivation
from transformers.models.swin.modeling_swin import (
    SwinAttention,
    SwinBackbone,
    SwinEncoder,
    SwinLayer,
    SwinMLP,
    SwinModel,
    SwinPatchMerging,
    SwinStage,
)

from m2f.configuration.backbone_stages import fixed_size
from m2f.modeling_m2f.feed_forward import FeedForward, feed_forward
from m2f.modeling_m2f.kernels.portable_graph import is_portable
from m2f.modeling_m2f.kernels.window_attention import WINDOW_ATTENTION, dtype_of_projections, window_attention
from m2f.modeling_m2f.linear import Linear, is_plain_linear, linear
from m2f.modeling_m2f.plain_modules import is_plain, is_plain_tensor, is_untouched, is_untouched_inside


def use_lean_layers(backbone: nn.Module):
    """Turns the modules of a Swin backbone, and linear layers of any, into their lean forms."""
    for module in list(backbone.modules()):
        if type(module) in _LEAN:
            module.__class__ = _LEAN[type(module)]
        elif isinstance(module, nn.Sequential):
            _keep_linear_outputs(module)


def _keep_linear_outputs(layers: nn.Sequential):
    """What a `Linear` makes may be a view that autograd lets nobody change, as Swin V2's position bias would."""
    for before, after in pairwise(layers):
        if isinstance(before, nn.Linear) and getattr(after, "inplace", False):
            setattr(after, "inplace", False)  # noqa: B010 - of whatever module has it


def feature_maps_of(backbone: PreTrainedModel, pixel_values: Tensor) -> tuple[Tensor, ...]:
    """The feature maps (B, C_l, H_l, W_l) of any backbone; those of a lean Swin stay channels-last, as its layers make
    them, where `SwinBackbone.forward` copies each map three times.

    Not a class of its own with another `forward`: transformers translates the names in old checkpoints only for
    backbones of its own classes.

    Raises:
        ValueError: a backbone whose position embeddings are for one size gets another.
    """
    _check_size(backbone, pixel_values)
    # When compiling, the hooks that transformers puts on stages can be traced through its own forward alone.
    if torch.compiler.is_compiling() or not _is_lean(backbone):
        return tuple(backbone(pixel_values).feature_maps)
    hidden_states, size = backbone.swin.embeddings(pixel_values)
    feature_maps = []
    for name, stage in zip(backbone.stage_names[1:], backbone.swin.encoder.layers, strict=True):
        hidden_states, features, _ = stage(
            hidden_states, size, always_partition=True, output_hidden_states_before_downsampling=True
        )
        size = tuple((length + 1) // 2 for length in size)
        if name in backbone.out_features:
            cells = features.flatten(2).transpose(1, 2)  # as they were
            normalised = backbone.hidden_states_norms[name](cells).unflatten(1, features.shape[2:])
            feature_maps.append(normalised.permute(0, 3, 1, 2))
    return tuple(feature_maps)


def _is_lean(backbone: nn.Module) -> TypeGuard[SwinBackbone]:
    """Whether the modules around the stages, which are not called here, are as transformers makes them."""
    return (
        isinstance(backbone, SwinBackbone)
        and is_plain(backbone, SwinBackbone)
        and backbone.stage_names[0] not in backbone.out_features
        and is_plain(backbone.swin, SwinModel)
        and is_plain(backbone.swin.encoder, SwinEncoder)
        and is_untouched(backbone.swin.layernorm)  # whose result nobody reads
    )


def _check_size(backbone: PreTrainedModel, pixel_values: Tensor):
    wanted = fixed_size(backbone.config)
    if wanted is not None and tuple(pixel_values.shape[2:]) != wanted:
        raise ValueError(
            f"the backbone has position embeddings for inputs of {wanted[0]} x {wanted[1]} pixels, got "
            f"{pixel_values.shape[2]} x {pixel_values.shape[3]}; set the image processor's size and pad_size, or the "
            "crop size of the training, to that"
        )


class LeanSwinStage(SwinStage):
    """A stage, which does not copy its feature map to channels first."""

    def forward(
        self,
        hidden_states: Tensor,
        input_dimensions: tuple[int, int],
        always_partition: bool = False,
        output_hidden_states_before_downsampling: bool = False,
        **kwargs,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(B, H * W, C) to the next stage's input, this stage's map (B, C, H, W), and the last layer's weights."""
        if not output_hidden_states_before_downsampling:
            return super().forward(hidden_states, input_dimensions, always_partition, **kwargs)
        weights = None
        for block in self.blocks:
            hidden_states, weights = block(hidden_states, input_dimensions, always_partition, **kwargs)
        features = hidden_states.unflatten(1, input_dimensions).permute(0, 3, 1, 2)
        if self.downsample is not None:
            hidden_states = self.downsample(hidden_states, input_dimensions)
        return hidden_states, features, weights


class LeanSwinLayer(SwinLayer):
    """A Swin layer; `recomputes` says whether training may compute the feed-forward network again, see `recompute`."""

    recomputes = False

    # transformers' own annotation is one of a tensor, and a tuple is what it returns (5.23).
    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, input_dimensions: tuple[int, int], always_partition: bool = False, **kwargs
    ) -> tuple[Tensor, Tensor | None]:
        """(B, H * W, C) -> (B, H * W, C), and attention weights where transformers' layer is asked for them."""
        if not (always_partition and self._attends_lean(hidden_states, kwargs)):
            return super().forward(hidden_states, input_dimensions, always_partition, **kwargs)  # type: ignore[return-value]
        attended = self._attend(self.layernorm_before(hidden_states), *input_dimensions)
        hidden_states = hidden_states + self.drop_path(self.dropout(attended))
        network = self._in_one_step()
        return feed_forward(self, hidden_states, self._feedforward, network, self.recomputes, random=True), None

    def _attends_lean(self, hidden_states: Tensor, options: dict) -> bool:
        attention = self.attention
        return (
            type(attention) is SwinAttention
            and attention.config._attn_implementation == "sdpa"
            and not options.get("output_attentions")
            and not (attention.training and attention.attention_dropout)
            and is_untouched_inside(attention)
            and is_untouched(self.dropout)
            and (
                is_portable()  # where windows of any map can be said without views that its size must divide
                or WINDOW_ATTENTION.runs_on(
                    hidden_states.device,
                    dtype_of_projections(hidden_states),
                    head_dim=attention.head_dim,
                    window=self.window_size,
                )
            )
        )

    def _attend(self, x: Tensor, height: int, width: int) -> Tensor:
        attention, per_head = self.attention, (3, self.attention.num_attention_heads, self.attention.head_dim)
        qkv, padding = _together((attention.q_proj, attention.k_proj, attention.v_proj), x)
        attended = window_attention(
            qkv.unflatten(-1, per_head),
            padding.view(per_head),
            attention.relative_position_bias().squeeze(0),
            height,
            width,
            self.shift_size,
        )
        return attention.o_proj(attended)

    def _feedforward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states + self.dropout(self.mlp(self.layernorm_after(hidden_states)))

    def _in_one_step(self) -> FeedForward | None:
        """The feed-forward network in one step; None where its modules are not transformers' or drop something."""
        mlp = self.mlp
        if not (is_plain(mlp, SwinMLP) and _is_exact_gelu(mlp.activation_fn) and _drops_nothing(self.dropout)):
            return None
        return FeedForward(self.layernorm_after, mlp.fc1, mlp.fc2, "gelu", adds_normalised=False)


class LeanSwinPatchMerging(SwinPatchMerging):
    """Four neighbours to one cell, put together in one copy."""

    def forward(self, input_feature: Tensor, input_dimensions: tuple[int, int]) -> Tensor:
        """(B, H * W, C) -> (B, ceil(H / 2) * ceil(W / 2), 2 C)."""
        cells = self.maybe_pad(input_feature.unflatten(1, input_dimensions), *input_dimensions)
        squares = cells.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H / 2, 2, W / 2, 2, C)
        merged = squares.permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)
        return self.reduction(self.norm(merged))


_LEAN = {
    SwinStage: LeanSwinStage,
    SwinLayer: LeanSwinLayer,
    SwinPatchMerging: LeanSwinPatchMerging,
    nn.Linear: Linear,
}


def _is_exact_gelu(activation: nn.Module) -> bool:
    return is_plain(activation, GELUActivation) or (is_plain(activation, nn.GELU) and activation.approximate == "none")


def _drops_nothing(dropout: nn.Module) -> bool:
    """Asks the module itself: whoever wants dropout in evaluation puts these modules alone into training mode."""
    return is_plain(dropout, nn.Identity) or (
        isinstance(dropout, nn.Dropout) and is_plain(dropout, nn.Dropout) and not (dropout.training and dropout.p > 0)
    )


def _together(layers: tuple[nn.Module, ...], x: Tensor) -> tuple[Tensor, Tensor]:
    """What the layers make of x (B, S, C), side by side, (B, S, 3C); and of a cell of zeros, with which transformers
    fills the map up, (3C,)."""
    if all(is_plain_linear(layer) and layer.bias is not None for layer in layers):
        weights, biases = ([getattr(layer, name) for layer in layers] for name in ("weight", "bias"))
    else:
        weights, biases = [], []
    # Weights of another kind, such as quantised ones, may know products and not how to be joined.
    if weights and all(map(is_plain_tensor, (*weights, *biases))):
        weight, bias = torch.cat(weights), torch.cat(biases)
        projected = linear(x, weight, bias)
        return projected, bias.to(projected.dtype)
    zeros = x.new_zeros(1, 1, x.shape[-1])
    projected, padding = (torch.cat([layer(t) for layer in layers], -1) for t in (x, zeros))
    return projected, padding.flatten()
