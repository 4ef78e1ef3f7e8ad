"""The Transformer decoder with masked attention (Cheng et al. 2022, section 3.2).

Predict, mask, cross-attend, self-attend, feed forward, predict: each layer sees one level of pixel features, strides
32, 16, 8 in turn, and only where the previous prediction of its query puts foreground.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from m2f.modeling_m2f.attention import CrossAttention, SelfAttention
from m2f.modeling_m2f.linear import Linear, similarities
from m2f.modeling_m2f.outputs import TransformerDecoderOutput
from m2f.modeling_m2f.pixel_decoder import NUM_LEVELS
from m2f.modeling_m2f.pixel_values import values_can_be_read
from m2f.modeling_m2f.position_embedding import sine_position_embedding
from m2f.modeling_m2f.recompute import recomputed_if_asked
from m2f.modeling_m2f.valid_region import ValidRegion, replicate_edge, zero_padding
from m2f.modeling_m2f.weight_init import c2_xavier_, torch_default_bias_


class MaskedAttentionLayer(GradientCheckpointingLayer):
    """Cross-attention, self-attention and feed-forward network, each added to its input and normalised.

    No dropout, as in the paper (section 3.2.3).

    Args:
        channels: C. feedforward_dim: inner size of the feed-forward network. num_heads: M.
        activation: name of the activation in the feed-forward network.
        pre_norm: normalise the input of each block instead of its output.
        xavier_gain: gain of the initialisation.
    """

    def __init__(
        self, channels: int, feedforward_dim: int, num_heads: int, activation: str, pre_norm: bool, xavier_gain: float
    ):
        super().__init__()
        self.pre_norm = pre_norm
        self.recomputes_all = False  # see `recompute_decoders`
        self.xavier_gain = xavier_gain
        self.self_attn = SelfAttention(channels, num_heads)
        self.self_attn_layer_norm = nn.LayerNorm(channels)
        self.cross_attn = CrossAttention(channels, num_heads)
        self.cross_attn_layer_norm = nn.LayerNorm(channels)
        self.fc1 = Linear(channels, feedforward_dim)
        self.fc2 = Linear(feedforward_dim, channels)
        self.final_layer_norm = nn.LayerNorm(channels)
        self.activation = ACT2FN[activation]

    def init_original_weights(self):
        self.self_attn.init_original_weights(self.xavier_gain)
        self.cross_attn.init_original_weights(self.xavier_gain)
        for layer in (self.fc1, self.fc2):
            init.xavier_uniform_(layer.weight, gain=self.xavier_gain)
            torch_default_bias_(layer)

    def forward(
        self,
        hidden_states: Tensor,
        query_position: Tensor,
        features: Tensor,
        positioned_features: Tensor,
        keep: Tensor | None,
        return_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(B, Q, C) -> (B, Q, C), self-attention weights and cross-attention weights; arguments as in
        `CrossAttention.forward`."""
        inputs = (hidden_states, query_position, features, positioned_features, keep, return_weights)
        return recomputed_if_asked(self, self._attend, *inputs)

    def _attend(
        self,
        hidden_states: Tensor,
        query_position: Tensor,
        features: Tensor,
        positioned_features: Tensor,
        keep: Tensor | None,
        return_weights: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x = self._before(self.cross_attn_layer_norm, hidden_states)
        attended, cross_weights = self.cross_attn(
            x, query_position, features, positioned_features, keep, return_weights
        )
        hidden_states = self._after(self.cross_attn_layer_norm, hidden_states + attended)

        x = self._before(self.self_attn_layer_norm, hidden_states)
        attended, self_weights = self.self_attn(x, query_position, return_weights)
        hidden_states = self._after(self.self_attn_layer_norm, hidden_states + attended)

        x = self._before(self.final_layer_norm, hidden_states)
        transformed = self.fc2(self.activation(self.fc1(x)))
        return self._after(self.final_layer_norm, hidden_states + transformed), self_weights, cross_weights

    def _before(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return norm(x) if self.pre_norm else x

    def _after(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return x if self.pre_norm else norm(x)


class MaskPredictor(nn.Module):
    """Three linear layers from a query to its mask embedding."""

    def __init__(self, channels: int, mask_channels: int):
        super().__init__()
        sizes = [channels, channels, channels, mask_channels]
        # One more level of nesting than needed: the parameters are named mask_embedder.i.0.
        self.mask_embedder = nn.ModuleList(
            nn.Sequential(nn.Linear(size_in, size_out)) for size_in, size_out in zip(sizes, sizes[1:], strict=False)
        )

    def forward(self, queries: Tensor) -> Tensor:
        """(B, Q, C) -> (B, Q, C_mask)."""
        first, second, third = self.mask_embedder
        return third(relu(second(relu(first(queries)))))


class MaskedAttentionDecoder(nn.Module):
    """The layers, the final norm and the mask head that every prediction shares.

    Args:
        num_layers: layers; there is one prediction more.
        mask_channels: channels of the mask features.
        masked_layers: how many of the layers, the last ones, look only where the previous prediction puts foreground;
            the others see the whole image. None: all of them.
        layer: the other arguments of `MaskedAttentionLayer`.

    Attributes:
        mask_shares: in training, of each layer, the share in [0, 1] of its queries whose masks are used, chosen anew
            in each pass; see `m2f.training.mask_annealing`.
    """

    def __init__(self, num_layers: int, channels: int, mask_channels: int, masked_layers: int | None = None, **layer):
        super().__init__()
        masked = num_layers if masked_layers is None else masked_layers
        self.mask_shares = [0.0] * (num_layers - masked) + [1.0] * masked
        self.layers = nn.ModuleList(MaskedAttentionLayer(channels, **layer) for _ in range(num_layers))
        self.layernorm = nn.LayerNorm(channels)
        self.mask_predictor = MaskPredictor(channels, mask_channels)

    def forward(
        self,
        queries: Tensor,
        query_position: Tensor,
        features: list[Tensor],
        feature_positions: list[Tensor],
        level_mask_features: list[Tensor],
        level_valid: list[Tensor] | None,
        output_hidden_states: bool = False,
        return_weights: bool = False,
    ) -> TransformerDecoderOutput:
        """Decode.

        Args:
            queries: (B, Q, C), the learned content. query_position: (1, Q, C), the learned position.
            features: per level (B, S_l, C). feature_positions: per level (1 or B, S_l, C).
            level_mask_features: per level (B, S_l, C_mask), the mask features resized to the level.
            level_valid: per level (B, S_l) bool, False in the padding; None without padding.

        Returns:
            TransformerDecoderOutput without `mask_features`.
        """
        # Added once for all layers that see a level.
        positioned = [x + position for x, position in zip(features, feature_positions, strict=True)]
        states, self_weights, cross_weights = [queries], [], []
        normalised = [self.layernorm(queries)]
        embeddings = [self.mask_predictor(normalised[0])]
        for i, layer in enumerate(self.layers):
            level = i % len(features)
            valid = None if level_valid is None else level_valid[level]
            keep = self._seen(self.mask_shares[i], embeddings[-1], level_mask_features[level], valid)
            state, self_weight, cross_weight = layer(
                states[-1], query_position, features[level], positioned[level], keep, return_weights
            )
            states.append(state)
            self_weights.append(self_weight)
            cross_weights.append(cross_weight)
            normalised.append(self.layernorm(state))
            embeddings.append(self.mask_predictor(normalised[-1]))
        return TransformerDecoderOutput(
            last_hidden_state=states[-1],
            intermediate_hidden_states=tuple(normalised),
            mask_embeddings=tuple(embeddings),
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(self_weights) if return_weights else None,
            cross_attentions=tuple(cross_weights) if return_weights else None,
        )

    def _seen(self, share: float, embedding: Tensor, mask_features: Tensor, valid: Tensor | None) -> Tensor | None:
        """(B, 1, Q, S_l) bool, True where a query may look; None for everywhere. In evaluation a layer whose masks
        are fading out has them all."""
        if share == 0:
            return None if valid is None else valid[:, None, None].expand(-1, -1, embedding.shape[1], -1)
        keep = attention_mask(embedding, mask_features, valid)
        if share == 1 or not self.training:
            return keep
        opened = torch.rand(embedding.shape[:2], device=embedding.device)[:, None, :, None] >= share
        return keep | (opened if valid is None else opened & valid[:, None, None])


@torch.no_grad()
def attention_mask(mask_embedding: Tensor, mask_features: Tensor, valid: Tensor | None) -> Tensor:
    """(B, 1, Q, S_l) bool, True where the predicted mask has probability >= 0.5.

    The prediction is never made at its full resolution: a mask is linear in the features, so features resized to the
    level give the resized mask. A query whose mask is empty there attends to the whole image.

    Args:
        mask_embedding: (B, Q, C_mask). mask_features: (B, S_l, C_mask). valid: (B, S_l) bool or None.
    """
    keep = similarities(mask_embedding, mask_features) >= 0
    if valid is not None:
        keep &= valid[:, None]
    empty = ~_any(keep)
    keep |= empty if valid is None else empty & valid[:, None]
    return keep[:, None]


def _any(keep: Tensor) -> Tensor:
    """`keep.any(-1, keepdim=True)`; as numbers, because torch's `any` is slow on a CPU: 0.4 against 0.01 ms for 100 x
    6400 cells. Tracers, exporters and torch.func do not know the view as numbers."""
    if not values_can_be_read(keep):
        return keep.any(-1, keepdim=True)
    return keep.view(torch.uint8).amax(-1, keepdim=True) != 0


def predict_masks(mask_embedding: Tensor, mask_features: Tensor) -> Tensor:
    """(B, Q, C_mask) x (B, C_mask, h, w) -> mask logits (B, Q, h, w)."""
    return similarities(mask_embedding, _cells(mask_features)).unflatten(-1, mask_features.shape[-2:])


class TransformerModule(nn.Module):
    """The decoder with its learned inputs.

    Args:
        in_channels: channels of the pixel decoder's maps. channels: C, `M2FConfig.hidden_dim`.
        num_queries: Q. enforce_projection: project the maps even where the channels agree.
        decoder: the other arguments of `MaskedAttentionDecoder`.
    """

    def __init__(self, in_channels: int, channels: int, num_queries: int, enforce_projection: bool, **decoder):
        super().__init__()
        # The names mislead: queries_embedder holds the queries' positions, queries_features their content.
        self.queries_embedder = nn.Embedding(num_queries, channels)
        self.queries_features = nn.Embedding(num_queries, channels)
        project = in_channels != channels or enforce_projection
        self.input_projections = nn.ModuleList(
            nn.Conv2d(in_channels, channels, 1) if project else nn.Identity() for _ in range(NUM_LEVELS)
        )
        self.decoder = MaskedAttentionDecoder(channels=channels, **decoder)
        self.level_embed = nn.Embedding(NUM_LEVELS, channels)

    def init_original_weights(self):
        for projection in self.input_projections:
            if isinstance(projection, nn.Conv2d):
                c2_xavier_(projection)

    def forward(
        self,
        multi_scale_features: tuple[Tensor, ...],
        mask_features: Tensor,
        valid: ValidRegion | None = None,
        output_hidden_states: bool = False,
        return_weights: bool = False,
    ) -> TransformerDecoderOutput:
        """Decode.

        Args:
            multi_scale_features: three of (B, C, H_l, W_l), strides 32, 16, 8.
            mask_features: (B, C_mask, H/4, W/4).
            valid: where the images are; no output depends on what stands outside.
        """
        mask_features = replicate_edge(mask_features, valid)
        # Called and not read, for hooks, adapters, and offloading, which brings weights for the time of a call alone.
        contents, query_positions = (
            _all_rows(embedding, mask_features.device) for embedding in (self.queries_features, self.queries_embedder)
        )
        level_embeddings = _all_rows(self.level_embed, mask_features.device)
        features, positions, level_mask_features, level_valid = [], [], [], []
        for level, feature_map in enumerate(multi_scale_features):
            size = tuple(feature_map.shape[-2:])
            projected = _cells(self.input_projections[level](zero_padding(feature_map, valid)))
            features.append(projected + level_embeddings[level])
            position = sine_position_embedding(size, projected.shape[-1], projected.device, valid)
            positions.append(position.to(features[-1].dtype))
            level_mask_features.append(_resize(mask_features, size))
            level_valid.append(None if valid is None else valid.mask(size).flatten(1))
        output = self.decoder(
            contents.expand(mask_features.shape[0], -1, -1),
            query_positions[None],
            features,
            positions,
            level_mask_features,
            None if valid is None else level_valid,
            output_hidden_states,
            return_weights,
        )
        output.mask_features = mask_features
        return output


def _all_rows(embedding: nn.Module, device: torch.device) -> Tensor:
    """The embedding of each index, (N, C)."""
    # Its own number first: a weight that is split over processes does not show it.
    rows = embedding.num_embeddings if isinstance(embedding, nn.Embedding) else len(embedding.get_parameter("weight"))
    return embedding(torch.arange(rows, device=device))


@torch.no_grad()
def _resize(mask_features: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C_mask, H/4, W/4) -> (B, S_l, C_mask); no gradient, as attention masks have none."""
    return _cells(interpolate(mask_features, size=size, mode="bilinear", align_corners=False))


def _cells(feature_map: Tensor) -> Tensor:
    """(B, C, H_l, W_l) -> (B, S_l, C)."""
    return feature_map.flatten(2).transpose(1, 2)
