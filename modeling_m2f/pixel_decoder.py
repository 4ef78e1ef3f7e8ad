"""The pixel decoder: deformable attention over strides 32, 16, 8, then feature pyramid levels up to stride 4.

Cheng et al. 2022, section 3.2.1 and appendix; the encoder is Deformable DETR's (Zhu et al., ICLR 2021).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, relu
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from m2f.modeling_m2f.convolution import Conv3x3
from m2f.modeling_m2f.deformable_attention import MultiScaleDeformableAttention
from m2f.modeling_m2f.feed_forward import FeedForward, feed_forward
from m2f.modeling_m2f.kernels.readable_memory import is_transformed
from m2f.modeling_m2f.linear import is_plain_linear
from m2f.modeling_m2f.normalised_convolution import MaskedGroupNorm, NormalisedConvolution, merged
from m2f.modeling_m2f.outputs import PixelDecoderOutput
from m2f.modeling_m2f.plain_modules import is_plain
from m2f.modeling_m2f.position_embedding import sine_position_embedding
from m2f.modeling_m2f.recompute import recomputed_if_asked
from m2f.modeling_m2f.valid_region import ValidRegion, within
from m2f.modeling_m2f.weight_init import c2_xavier_, torch_default_bias_, xavier_

NUM_LEVELS = 3
NUM_POINTS = 4
NUM_GROUPS = 32


class DeformableEncoderLayer(GradientCheckpointingLayer):
    """Deformable self-attention over all levels, then a feed-forward network; both added, then normalised.

    Args:
        channels: C. feedforward_dim: inner size of the feed-forward network. num_heads: M. dropout: in [0, 1).
        recompute: compute the feed-forward network's activations again in the backward pass, see `recompute`.
    """

    def __init__(self, channels: int, feedforward_dim: int, num_heads: int, dropout: float, recompute: bool):
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(channels, num_heads, NUM_LEVELS, NUM_POINTS)
        self.self_attn_layer_norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, feedforward_dim)
        self.fc2 = nn.Linear(feedforward_dim, channels)
        self.final_layer_norm = nn.LayerNorm(channels)
        self.dropout = dropout
        self.recompute = recompute
        self.recomputes_all = False  # see `recompute_decoders`

    def init_original_weights(self):
        for layer in (self.fc1, self.fc2):
            init.xavier_uniform_(layer.weight)
            torch_default_bias_(layer)

    def forward(
        self,
        hidden_states: Tensor,
        position_embedding: Tensor,
        reference_points: Tensor,
        spatial_shapes: list[tuple[int, int]],
        padding: Tensor | None,
    ) -> Tensor:
        """(B, S, C) -> (B, S, C); the other arguments as in `MultiScaleDeformableAttention.forward`."""

        def attend(hidden_states: Tensor, position_embedding: Tensor) -> Tensor:
            # The sum is made in float32, the embedding's type, and only then rounded to the weights' type.
            queries = (hidden_states + position_embedding).to(hidden_states.dtype)
            return self.self_attn(queries, hidden_states, reference_points, spatial_shapes, padding)

        drops = self.training and self.dropout > 0
        network = FeedForward(self.self_attn_layer_norm, self.fc1, self.fc2, "relu", adds_normalised=True)

        def transform(hidden_states: Tensor) -> Tensor:
            in_one_step = None if drops else network
            return feed_forward(self, hidden_states, self._feedforward, in_one_step, self.recompute, random=drops)

        inputs = hidden_states, position_embedding
        if not self.recomputes_all:
            return self.final_layer_norm(transform(hidden_states + self._drop(attend(*inputs))))
        if not drops and network.is_fast(hidden_states):
            # The feed-forward network is the last of what is computed again, and so is not, see `kept_inputs`.
            hidden_states = recomputed_if_asked(self, lambda x, p: transform(x + attend(x, p)), *inputs)
        else:
            hidden_states = transform(hidden_states + self._drop(recomputed_if_asked(self, attend, *inputs)))
        return self.final_layer_norm(hidden_states)

    def _feedforward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = self.self_attn_layer_norm(hidden_states)
        # In place, where no hook may have kept what the layer made.
        inner = relu(self.fc1(hidden_states), inplace=is_plain_linear(self.fc1))
        transformed = self.fc2(self._drop(inner))
        return hidden_states + self._drop(transformed)

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training) if self.dropout else x


class DeformableEncoder(nn.Module):
    """The stack of layers; a module of its own because the parameters' names say so; `layer` holds the arguments of
    `DeformableEncoderLayer`."""

    def __init__(self, num_layers: int, **layer):
        super().__init__()
        self.layers = nn.ModuleList(DeformableEncoderLayer(**layer) for _ in range(num_layers))

    def forward(
        self,
        hidden_states: Tensor,
        position_embedding: Tensor,
        spatial_shapes: list[tuple[int, int]],
        padding: Tensor | None,
    ) -> Tensor:
        """(B, S, C) -> (B, S, C)."""
        points = reference_points(spatial_shapes, hidden_states.device)
        for layer in self.layers:
            hidden_states = layer(hidden_states, position_embedding, points, spatial_shapes, padding)
        return hidden_states


def reference_points(spatial_shapes: list[tuple[int, int]], device: torch.device) -> Tensor:
    """(1, S, L, 2) float32: the centre (x, y) of each cell, in [0, 1] of the canvas, the same point on every level.

    Deformable DETR divides by the valid ratio of the query's level and multiplies by that of the sampled level. Here
    both are h / H exactly, not counts of cells, so they cancel, and padding does not move a point (departure from
    Deformable DETR, whose rounded ratios shift points by up to half a cell; the original has no padding to see).
    """
    centres = []
    for height, width in spatial_shapes:
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        centres.append(torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1).flatten(0, 1))
    # In one piece, because every layer reads it and the kernels need it so.
    return torch.cat(centres)[None, :, None].repeat(1, 1, len(spatial_shapes), 1)


class PixelDecoder(nn.Module):
    """Backbone features -> three feature maps for the Transformer decoder and the mask features.

    Args:
        in_channels: channels of the backbone's feature maps, stride 4 first.
        channels: C, `M2FConfig.feature_size`.
        mask_channels: channels of the mask features.
        feedforward_dim, num_layers, num_heads, dropout: of the deformable encoder.
        recompute: of the encoder's layers.
        finest_encoder_stride, mask_stride: strides of the finest encoded map and of the mask features; one feature
            pyramid level is added per factor of two between them.
        xavier_gain: gain of the input projections' initialisation.
    """

    def __init__(
        self,
        in_channels: list[int],
        channels: int,
        mask_channels: int,
        feedforward_dim: int,
        num_layers: int,
        num_heads: int,
        dropout: float,
        recompute: bool,
        finest_encoder_stride: int,
        mask_stride: int,
        xavier_gain: float,
    ):
        super().__init__()
        self.xavier_gain = xavier_gain
        self.recomputes_all = False  # see `recompute_decoders`
        self.level_embed = nn.Parameter(torch.empty(NUM_LEVELS, channels))
        self.input_projections = nn.ModuleList(
            NormalisedConvolution(nn.Conv2d(in_size, channels, 1), MaskedGroupNorm(NUM_GROUPS, channels))
            for in_size in in_channels[::-1][:NUM_LEVELS]
        )
        self.encoder = DeformableEncoder(
            num_layers,
            channels=channels,
            feedforward_dim=feedforward_dim,
            num_heads=num_heads,
            dropout=dropout,
            recompute=recompute,
        )
        self.mask_projection = nn.Conv2d(channels, mask_channels, 1)
        self.num_fpn_levels = int(math.log2(finest_encoder_stride // mask_stride))
        for i, in_size in enumerate(in_channels[: self.num_fpn_levels], start=1):
            lateral = nn.Conv2d(in_size, channels, 1, bias=False)
            output = Conv3x3(channels, channels, 3, padding=1, bias=False)
            self.add_module(f"adapter_{i}", NormalisedConvolution(lateral, MaskedGroupNorm(NUM_GROUPS, channels)))
            norm = MaskedGroupNorm(NUM_GROUPS, channels)
            self.add_module(f"layer_{i}", NormalisedConvolution(output, norm, nn.ReLU()))

    def init_original_weights(self):
        init.normal_(self.level_embed)
        projections: list[Any] = list(self.input_projections)
        for convolution, _ in projections:
            xavier_(convolution, gain=self.xavier_gain)
        c2_xavier_(self.mask_projection)
        for i in range(1, self.num_fpn_levels + 1):
            c2_xavier_(getattr(self, f"adapter_{i}")[0])
            c2_xavier_(getattr(self, f"layer_{i}")[0])

    def forward(self, feature_maps: tuple[Tensor, ...], valid: ValidRegion | None = None) -> PixelDecoderOutput:
        """Decode.

        Args:
            feature_maps: four of (B, C_l, H_l, W_l), strides 4, 8, 16, 32.
            valid: where the images are; no valid output depends on what stands outside.

        Returns:
            `multi_scale_features`: three of (B, C, H_l, W_l), strides 32, 16, 8; `mask_features`: (B, C, H/4, W/4).
        """
        feature_maps = tuple(map(_channels_last, feature_maps))
        maps = [
            within(valid, projection, features)
            for projection, features in zip(self.input_projections, feature_maps[::-1], strict=False)
        ]
        maps = self._encode(maps, valid)
        finest = maps[-1]
        finish: Callable[[Tensor], Tensor] = _unchanged
        for i in range(self.num_fpn_levels, 0, -1):
            finest, finish = self._fpn_level(i, feature_maps[i - 1], finish(finest), valid)
        mask_features = recomputed_if_asked(self, lambda x: self.mask_projection(finish(x)), finest)
        return PixelDecoderOutput(multi_scale_features=tuple(maps), mask_features=mask_features)

    def _encode(self, maps: list[Tensor], valid: ValidRegion | None) -> list[Tensor]:
        spatial_shapes = [tuple(x.shape[-2:]) for x in maps]
        positions = [
            sine_position_embedding(shape, maps[0].shape[1], maps[0].device, valid) + self.level_embed[level]
            for level, shape in enumerate(spatial_shapes)
        ]
        padding = None
        if valid is not None:
            padding = ~torch.cat([valid.mask(shape).flatten(1) for shape in spatial_shapes], 1)
        hidden_states = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        hidden_states = self.encoder(hidden_states, torch.cat(positions, 1), spatial_shapes, padding)
        levels = hidden_states.split([height * width for height, width in spatial_shapes], dim=1)
        return [x.unflatten(1, shape).permute(0, 3, 1, 2) for x, shape in zip(levels, spatial_shapes, strict=True)]

    def _fpn_level(
        self, i: int, features: Tensor, coarser: Tensor, valid: ValidRegion | None
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """A map, and what is left to do to it."""
        adapter, layer = getattr(self, f"adapter_{i}"), getattr(self, f"layer_{i}")
        recomputes = self.recomputes_all and self.training and torch.is_grad_enabled()
        if not (recomputes and is_plain(layer, NormalisedConvolution)):
            # Zeros outside, as the 3x3 convolution sees them beyond the border of a map.
            return within(valid, layer, merged(adapter, features, coarser, valid)), _unchanged

        def convolved(features: Tensor, coarser: Tensor) -> Tensor:
            return layer[0](merged(adapter, features, coarser, valid))

        return recomputed_if_asked(self, convolved, features, coarser), lambda x: layer.normalised(x, valid)


def _unchanged(x: Tensor) -> Tensor:
    return x


def _channels_last(features: Tensor) -> Tensor:
    """On a CPU the memory format in which convolutions are faster (1x1: 1.3 to 1.8 times, 3x3: 1.1 times on 2 cores of
    an AMD EPYC) and cells are rows, as the encoder wants them. Inside `torch.vmap` there are no such formats."""
    if features.device.type != "cpu" or is_transformed():
        return features
    return features.contiguous(memory_format=torch.channels_last)
