"""What the modules return. Every tensor has the batch first; names are transformers' where it has the field."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class PixelDecoderOutput(ModelOutput):
    """`multi_scale_features`: three of (B, C, H_l, W_l), strides 32, 16, 8. `mask_features`: (B, C, H/4, W/4)."""

    multi_scale_features: tuple[Tensor, ...] | None = None
    mask_features: Tensor | None = None


@dataclass
class PixelLevelOutput(ModelOutput):
    """Feature maps of the backbone, strides 4, 8, 16, 32, and what the pixel decoder made of them."""

    feature_maps: tuple[Tensor, ...] | None = None
    multi_scale_features: tuple[Tensor, ...] | None = None
    mask_features: Tensor | None = None


@dataclass
class TransformerDecoderOutput(ModelOutput):
    """One entry per prediction: that of the learned queries first, then one per layer.

    last_hidden_state: (B, Q, C), after the last layer, before the norm.
    intermediate_hidden_states: per prediction (B, Q, C), after the norm.
    mask_embeddings: per prediction (B, Q, C_mask); a mask is its product with the mask features.
    mask_features: (B, C_mask, H/4, W/4), with the image's border repeated over the padding.
    hidden_states: before the first and after each layer (B, Q, C), or None.
    attentions, cross_attentions: per layer (B, M, Q, Q) and (B, M, Q, S_l), or None.
    """

    last_hidden_state: Tensor | None = None
    intermediate_hidden_states: tuple[Tensor, ...] | None = None
    mask_embeddings: tuple[Tensor, ...] | None = None
    mask_features: Tensor | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class M2FModelOutput(ModelOutput):
    """Output of `M2FModel`; as everywhere in transformers, the first entry is the network's last state.

    transformer_decoder_last_hidden_state: (B, Q, C).
    encoder_last_hidden_state: (B, C_4, H/32, W/32), the backbone's coarsest feature map.
    pixel_decoder_last_hidden_state: (B, C_mask, H/4, W/4), the mask features.
    encoder_hidden_states: the backbone's four feature maps (with `output_hidden_states`).
    pixel_decoder_hidden_states: three of (B, C, H_l, W_l), strides 32, 16, 8 (with `output_hidden_states`).
    transformer_decoder_hidden_states: (B, Q, C) before the first and after each layer (with
        `output_hidden_states`; given as a list of indices, the others are None).
    transformer_decoder_intermediate_states: per prediction (B, Q, C), normalised; class logits are linear in them.
    masks_queries_logits: per prediction (B, Q, H/4, W/4); the last prediction alone unless
        `output_auxiliary_logits` (transformers computes and keeps all of them).
    mask_embeddings: per prediction (B, Q, C_mask).
    hidden_states: the same as `transformer_decoder_hidden_states`, for code that knows no field but this one.
    attentions: self-attention per layer (B, M, Q, Q) (with `output_attentions`).
    cross_attentions: masked attention per layer (B, M, Q, S_l) (with `output_attentions`; transformers drops it).
    valid_sizes: (B, 2) int64, (h, w) of each image's real pixels within `pixel_values`, as `pixel_mask` says them.
        Without `pixel_mask` the size of `pixel_values` where the model padded them to multiples of 32, else None:
        nobody said.
    input_sizes: (B, 2) int64, (h, w) of `pixel_values`, where there is no `pixel_mask`, else None. For
        post-processing, which then has to find out where each image ends.
    """

    transformer_decoder_last_hidden_state: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    pixel_decoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    pixel_decoder_hidden_states: tuple[Tensor, ...] | None = None
    transformer_decoder_hidden_states: tuple[Tensor | None, ...] | None = None
    transformer_decoder_intermediate_states: tuple[Tensor, ...] | None = None
    masks_queries_logits: tuple[Tensor, ...] | None = None
    mask_embeddings: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    valid_sizes: Tensor | None = None
    input_sizes: Tensor | None = None


@dataclass
class M2FForUniversalSegmentationOutput(ModelOutput):
    """Output of `M2FForUniversalSegmentation`; the fields not listed are those of `M2FModelOutput`.

    loss: scalar, the weighted sum of `loss_dict` (with labels).
    loss_dict: each term unweighted: "loss_ce", "loss_mask", "loss_dice" of the last prediction and with the suffix
        "_i" those of prediction i, 0 being the learned queries (with labels).
    class_queries_logits: (B, Q, K + 1) of the last prediction; the last class is "no object".
    masks_queries_logits: (B, Q, H/4, W/4) of the last prediction, padding included, where H and W are the input's
        size rounded up to multiples of 32.
    auxiliary_logits: a dict of "class_queries_logits" and "masks_queries_logits" per earlier prediction (with
        `output_auxiliary_logits`).
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    class_queries_logits: Tensor | None = None
    masks_queries_logits: Tensor | None = None
    auxiliary_logits: list[dict[str, Tensor]] | None = None
    encoder_last_hidden_state: Tensor | None = None
    pixel_decoder_last_hidden_state: Tensor | None = None
    transformer_decoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    pixel_decoder_hidden_states: tuple[Tensor, ...] | None = None
    transformer_decoder_hidden_states: tuple[Tensor | None, ...] | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    valid_sizes: Tensor | None = None
    input_sizes: Tensor | None = None
