"""Mask2Former as transformers models: `M2FModel` and `M2FForUniversalSegmentation`.

Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022. Parameter names are
those of transformers' Mask2Former, so that checkpoints fit both.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from m2f.configuration.backbone_stages import is_plain_vit, patch_size
from m2f.configuration.configuration_m2f import M2FConfig
from m2f.modeling_m2f.adapters import add_adapters
from m2f.modeling_m2f.backbone import (
    build_backbone,
    check_strides,
    init_swin_as_original,
    unsplit_modules,
)
from m2f.modeling_m2f.checkpoint_report import CONSTANTS, FORMER_CONSTANTS, HEADS
from m2f.modeling_m2f.criterion import Criterion
from m2f.modeling_m2f.feature_pyramid import FeaturePyramid
from m2f.modeling_m2f.kernels.readable_memory import is_transformed
from m2f.modeling_m2f.loss_of_logits import LossOfLogits
from m2f.modeling_m2f.loss_operator import is_operable, loss_in_graph
from m2f.modeling_m2f.mask_losses import PointChoice
from m2f.modeling_m2f.mask_targets import MaskTargets
from m2f.modeling_m2f.matcher import HungarianMatcher
from m2f.modeling_m2f.outputs import M2FForUniversalSegmentationOutput, M2FModelOutput, PixelLevelOutput
from m2f.modeling_m2f.pixel_decoder import NUM_LEVELS, PixelDecoder
from m2f.modeling_m2f.pixel_values import (
    check_shapes,
    check_values,
    has_padding,
    image_sizes,
    pad_to_multiple,
    round_up,
    sizes_to_report,
)
from m2f.modeling_m2f.prepare_targets import countable_classes, prepare_targets
from m2f.modeling_m2f.pretrained_model import M2FPreTrainedModel
from m2f.modeling_m2f.recompute import recompute_feedforward
from m2f.modeling_m2f.swin import feature_maps_of
from m2f.modeling_m2f.transformer_decoder import TransformerModule, predict_masks
from m2f.modeling_m2f.untransformed import untransformed, values_of
from m2f.modeling_m2f.valid_region import ValidRegion
from m2f.modeling_m2f.wide_products import wide_products

# The segmentation pipeline knows its models by a table of names alone; without the entry it logs an error line for a
# model that then works (transformers 5.17 to 5.23). Other code tells models without a loss by the first table.
MODEL_MAPPING_NAMES.setdefault("m2f", "M2FModel")
MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES.setdefault("m2f", "M2FForUniversalSegmentation")


class PixelLevelModule(nn.Module):
    """Backbone, feature pyramid where the backbone is a plain Vision Transformer, and pixel decoder."""

    def __init__(self, config: M2FConfig):
        super().__init__()
        self.strides = list(config.feature_strides)
        # "encoder" is the backbone; the parameters' names say so.
        assert isinstance(config.backbone_config, PretrainedConfig)  # whatever it was made of
        self.encoder, channels = build_backbone(
            config.backbone_config, config.backbone_frozen_batch_norm, self.strides
        )
        self.backbone_is_frozen = False
        self.recomputes = config.recompute_feedforward
        if config.backbone_lora is not None:
            add_adapters(self.encoder, **config.backbone_lora)
        if self.recomputes:
            recompute_feedforward(self.encoder)
        self.feature_pyramid: FeaturePyramid | None = None
        if is_plain_vit(config.backbone_config):
            self.feature_pyramid = FeaturePyramid(
                channels, config.feature_size, patch_size(config.backbone_config), self.strides
            )
            channels = [config.feature_size] * len(self.strides)
        self.decoder = PixelDecoder(
            in_channels=channels,
            channels=config.feature_size,
            mask_channels=config.mask_feature_size,
            feedforward_dim=config.encoder_feedforward_dim,
            num_layers=config.encoder_layers,
            num_heads=config.num_attention_heads,
            dropout=config.dropout,
            recompute=config.recompute_feedforward,
            finest_encoder_stride=self.strides[-NUM_LEVELS],
            mask_stride=config.common_stride,
            xavier_gain=config.init_xavier_std,
        )

    def init_original_weights(self):
        if self.encoder.config.model_type == "swin":
            init_swin_as_original(self.encoder)

    def freeze_backbone(self):
        """From now on the backbone is a constant: it gets no gradient, keeps nothing for the backward pass, and stays
        in evaluation mode, so that dropout, dropped paths and the statistics of BatchNorm stand still."""
        self.backbone_is_frozen = True
        self.encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "PixelLevelModule":
        super().train(mode)
        if self.backbone_is_frozen:
            self.encoder.eval()
        return self

    def forward(self, pixel_values: Tensor, valid: ValidRegion | None) -> PixelLevelOutput:
        """(B, 3, H, W) -> PixelLevelOutput."""
        feature_maps = self.feature_maps(pixel_values, valid)
        if not torch.compiler.is_compiling():
            check_strides(feature_maps, pixel_values.shape[-2:], self.strides)
        # In float32 under autocast, as the original: rounded to half precision, features at this depth flip masks.
        with torch.autocast(pixel_values.device.type, enabled=False):
            dtype = self.decoder.level_embed.dtype
            decoded = self.decoder(tuple(x.to(dtype) for x in feature_maps), valid)
        return PixelLevelOutput(
            feature_maps=feature_maps,
            multi_scale_features=decoded.multi_scale_features,
            mask_features=decoded.mask_features,
        )

    def feature_maps(self, pixel_values: Tensor, valid: ValidRegion | None = None) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> a map (B, C_l, H / stride, W / stride) for each stride: the backbone's, or the pyramid's of
        them."""
        # Replicas of nn.DataParallel share what is no module, and so what stands in for a forward.
        if self.recomputes and getattr(self, "_is_replica", False):
            recompute_feedforward(self.encoder)
        with torch.no_grad() if self.backbone_is_frozen else nullcontext():
            maps = self._maps_of_backbone(pixel_values)
        return maps if self.feature_pyramid is None else self.feature_pyramid(maps, valid)

    def _maps_of_backbone(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Of no image none of those of a black one, because many of transformers' backbones cannot reshape nothing."""
        if self.feature_pyramid is not None:
            pixel_values = self.feature_pyramid.resized(pixel_values)
        if torch.compiler.is_compiling() or len(pixel_values):
            return feature_maps_of(self.encoder, pixel_values)
        stand_in = pixel_values.new_zeros(1, *pixel_values.shape[1:])
        return tuple(features[:0] for features in feature_maps_of(self.encoder, stand_in))


class M2FModel(M2FPreTrainedModel):
    """Backbone, pixel decoder and Transformer decoder, without the classifier."""

    _keys_to_ignore_on_load_unexpected = [*CONSTANTS, *FORMER_CONSTANTS, *HEADS]

    def __init__(self, config: M2FConfig):
        super().__init__(config)
        config.check()
        self.pixel_level_module = PixelLevelModule(config)
        self.transformer_module = TransformerModule(
            in_channels=config.feature_size,
            channels=config.hidden_dim,
            num_queries=config.num_queries,
            enforce_projection=config.enforce_input_projection,
            num_layers=config.decoder_layers - 1,
            mask_channels=config.mask_feature_size,
            feedforward_dim=config.dim_feedforward,
            num_heads=config.num_attention_heads,
            activation=config.activation_function,
            pre_norm=config.pre_norm,
            xavier_gain=config.init_xavier_std,
            masked_layers=config.masked_layers,
        )
        self.post_init()
        self._no_split_modules = {*(self._no_split_modules or ()), *unsplit_modules(self._backbone)}
        if self.pixel_level_module.feature_pyramid is not None:
            self._no_split_modules.add(FeaturePyramid.__name__)

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        output_hidden_states: bool | list[int] | None = None,
        output_attentions: bool | None = None,
        output_auxiliary_logits: bool | None = None,
        return_dict: bool | None = None,
    ) -> M2FModelOutput | tuple:
        """Run the network.

        Args:
            pixel_values: (B, 3, height, width), normalised; padded on the right and at the bottom to multiples of 32
                with zeros if they are not.
            pixel_mask: (B, height, width), 1 or True for real pixels, which fill the top left corner. Without it the
                network takes all pixels for real, and the outputs do not say where an image ends (`valid_sizes`).
                It keeps padding out of pixel decoder and Transformer decoder, so that an image gives the same result
                in every batch (`M2FConfig.mask_padding`; the original lets padding be seen, as without this argument).
                The backbone sees padding in any case.
            output_hidden_states, output_attentions, output_auxiliary_logits, return_dict: what to return, see
                `M2FModelOutput`; by default as the configuration says.

        Raises:
            ValueError: shapes do not fit, or pixels are NaN or infinite.
        """
        config = self.config
        output_attentions = _default(output_attentions, config.output_attentions)
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        check_shapes(pixel_values, pixel_mask, self._num_channels)
        check_values(pixel_values, pixel_mask)
        sizes = image_sizes(pixel_values, pixel_mask)
        valid_sizes, input_sizes = sizes_to_report(sizes, pixel_values, pixel_mask)
        valid = None
        if masks_padding(config, pixel_values, pixel_mask):
            valid = ValidRegion(sizes, tuple(round_up(length) for length in pixel_values.shape[-2:]))

        pixel_values = pad_to_multiple(pixel_values)
        with wide_products(pixel_values, self.dtype), _transformable_attention():
            pixels = self.pixel_level_module(pixel_values, valid)
            decoded = self.transformer_module(
                pixels.multi_scale_features,
                pixels.mask_features,
                valid,
                bool(output_hidden_states),
                output_attentions or config._attn_implementation == "eager",
            )
            every = _default(output_auxiliary_logits, config.output_auxiliary_logits)
            embeddings = decoded.mask_embeddings if every else decoded.mask_embeddings[-1:]
            masks = tuple(predict_masks(x, decoded.mask_features) for x in embeddings)
        hidden_states = _selected(decoded.hidden_states, output_hidden_states or False)
        output = M2FModelOutput(
            encoder_last_hidden_state=pixels.feature_maps[-1],
            pixel_decoder_last_hidden_state=decoded.mask_features,
            transformer_decoder_last_hidden_state=decoded.last_hidden_state,
            encoder_hidden_states=pixels.feature_maps if output_hidden_states else None,
            pixel_decoder_hidden_states=pixels.multi_scale_features if output_hidden_states else None,
            transformer_decoder_hidden_states=hidden_states,
            transformer_decoder_intermediate_states=decoded.intermediate_hidden_states,
            hidden_states=hidden_states,
            masks_queries_logits=masks,
            mask_embeddings=decoded.mask_embeddings,
            attentions=decoded.attentions if output_attentions else None,
            cross_attentions=decoded.cross_attentions if output_attentions else None,
            valid_sizes=valid_sizes,
            input_sizes=input_sizes,
        )
        return output if _default(return_dict, config.return_dict) else output.to_tuple()


class M2FForUniversalSegmentation(LossOfLogits, M2FPreTrainedModel):
    """The network with its classifier and its criterion: panoptic, instance and semantic segmentation."""

    # Trainer counts what the labels hold in all batches of an optimizer step, see `Criterion.forward`.
    accepts_loss_kwargs = True

    def __init__(self, config: M2FConfig):
        super().__init__(config)
        self.model = M2FModel(config)
        assert config.num_labels is not None  # two, where neither they nor their number were given
        self.class_predictor = nn.Linear(config.hidden_dim, config.num_labels + 1)
        matcher = HungarianMatcher(
            config.class_weight, config.mask_weight, config.dice_weight, config.train_num_points
        )
        self.criterion = Criterion(
            matcher,
            num_classes=config.num_labels,
            no_object_weight=config.no_object_weight,
            points=PointChoice(config.train_num_points, config.oversample_ratio, config.importance_sample_ratio),
            loss_weights={
                "loss_ce": config.class_weight,
                "loss_mask": config.mask_weight,
                "loss_dice": config.dice_weight,
            },
            class_weights=config.class_weights,
        )
        self.post_init()

    def set_class_weights(self, class_weights: Sequence[float] | None):
        """Other `M2FConfig.class_weights` from now on: (K,) numbers, or None for 1 each.

        Raises:
            ValueError: their number is not that of the labels, or one is negative or not finite.
        """
        setattr(self.config, "class_weights", class_weights)  # noqa: B010 - which makes a list of it
        self.config.check()
        self.criterion.set_class_weights(self.config.class_weights)

    @torch.no_grad()
    def count_targets(
        self, class_labels: Sequence | Tensor, mask_labels: Sequence | Tensor | None = None
    ) -> dict[str, Tensor]:
        """What a training loop that accumulates batches counts before the first forward pass of an optimizer step.

        Args:
            class_labels: of one batch, as in `forward`.
            mask_labels: likewise; with them targets without a pixel are left out, which `forward` drops. A
                `m2f.data.collation.Collator` makes none.

        Returns:
            By the names of `forward`'s arguments "num_items_in_batch", "num_images_in_batch", "class_weight_in_batch",
            float32 numbers on the model's device: to be summed over the batches and processes of the step. The loss is
            then exact for any division of it, unless an image has more targets than queries, of different class
            weights: of it the mean weight is taken.
        """
        counts = self.criterion.count(countable_classes(class_labels, mask_labels), self.config.num_queries)
        return dict(zip(("num_items_in_batch", "num_images_in_batch", "class_weight_in_batch"), counts, strict=True))

    def forward(
        self,
        pixel_values: Tensor,
        mask_labels: Sequence | Tensor | None = None,
        class_labels: Sequence | Tensor | None = None,
        pixel_mask: Tensor | None = None,
        output_hidden_states: bool | list[int] | None = None,
        output_auxiliary_logits: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        num_images_in_batch: Tensor | int | None = None,
        class_weight_in_batch: Tensor | float | None = None,
        **counted: Tensor,
    ) -> M2FForUniversalSegmentationOutput | tuple:
        """Run the network, and with labels the criterion.

        Args:
            pixel_values, pixel_mask: as in `M2FModel.forward`. With `M2FConfig.mask_padding` padding takes part
                neither in matching nor in the mask losses; without, it is background, as in the original.
            mask_labels: per image (N, height, width) of any type but int32, in [0, 1], a mask per segment; or per
                image (G, height, width) int32, layers of segment indices, -1 for no segment, -2 for pixels that take
                part neither in matching nor in the mask losses, -100 for a layer that only fills up. Of the size of
                `pixel_values` or of the image's valid part; or one tensor with the batch first. Tensors, arrays, or
                lists of masks. A segment without a pixel is dropped with its class.
            class_labels: per image (N,) integers in [0, K); or one tensor (B, N), -100 for targets that only fill up.
                Tensors, arrays or lists; without entries of any type.
            output_hidden_states, output_auxiliary_logits, output_attentions, return_dict: what to return, see
                `M2FForUniversalSegmentationOutput`; by default as the configuration says.
            num_items_in_batch, num_images_in_batch, class_weight_in_batch: targets, images and class weights of the
                queries in all batches of the optimizer step, on all processes, where it has more than this batch, as
                `count_targets` counts them: the loss is then this batch's share, to be summed over the batches and
                multiplied by the number of processes that average their gradients (`transformers.Trainer` does both).
                With one class weight for all classes the third may be left out. See `loss_normalizer`.
            counted: `labels`, which is not read: Trainer counts its entries that are not -100 and gives their number
                as `num_items_in_batch`. With `labels` equal to `class_labels` accumulation is exact there, if images
                have equally many targets of equal class weight, all with pixels; a warning says where class weights
                or masks without a pixel make it inexact. Not an argument of its own, because Trainer would then take
                every batch without it for unlabelled.

        Raises:
            ValueError: inputs or labels do not fit, before anything is computed; or a matching cost is not finite.
        """
        if unknown := counted.keys() - {"labels"}:
            raise TypeError(f"forward() got unexpected arguments {sorted(unknown)}.")
        others = {"num_images_in_batch": num_images_in_batch, "class_weight_in_batch": class_weight_in_batch}
        for name, count in others.items():
            if count is not None and num_items_in_batch is None:
                raise ValueError(f"{name} is given without num_items_in_batch; both are counts of one step.")
        counted_by_labels = num_items_in_batch is not None and class_weight_in_batch is None
        is_labelled = _is_labelled(mask_labels, class_labels)
        in_graph = torch.compiler.is_compiling() and is_operable(self.criterion, mask_labels, class_labels)
        targets = None
        if is_labelled and not in_graph:
            targets = self._targets(pixel_values, pixel_mask, mask_labels, class_labels, counted_by_labels)
        output_auxiliary_logits = _default(output_auxiliary_logits, self.config.output_auxiliary_logits)
        outputs = self.model(
            pixel_values,
            pixel_mask,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            output_auxiliary_logits=output_auxiliary_logits,
            return_dict=True,
        )
        every = output_auxiliary_logits or (is_labelled and self.config.use_auxiliary_loss)
        first = 0 if every else -1
        with wide_products(pixel_values, self.dtype):
            class_logits = self.class_predictor(torch.stack(outputs.transformer_decoder_intermediate_states[first:]))

        loss, loss_dict = None, None
        if is_labelled:
            first = 0 if self.config.use_auxiliary_loss else -1
            embeddings = torch.stack(outputs.mask_embeddings[first:])
            predictions = (class_logits[first:], embeddings, outputs.pixel_decoder_last_hidden_state)
            counts = (num_items_in_batch, num_images_in_batch, class_weight_in_batch)
            if in_graph:
                sizes = (image_sizes(pixel_values, pixel_mask), tuple(pixel_values.shape[-2:]))
                padding_counts = not masks_padding(self.config, pixel_values, pixel_mask)
                loss, loss_dict = loss_in_graph(
                    self.criterion, *predictions, mask_labels, class_labels, *sizes, padding_counts, counts
                )
            else:
                loss, loss_dict = self.criterion(*predictions, targets, *counts)
        masks = outputs.masks_queries_logits
        output = M2FForUniversalSegmentationOutput(
            loss=loss,
            loss_dict=loss_dict,
            class_queries_logits=class_logits[-1],
            masks_queries_logits=masks[-1],
            auxiliary_logits=self.get_auxiliary_logits(class_logits, masks) if output_auxiliary_logits else None,
            **{name: outputs[name] for name in _SHARED_FIELDS if name in outputs},
        )
        return output if _default(return_dict, self.config.return_dict) else output.to_tuple()

    @torch.compiler.disable(reason="labels that are no tensors, or a criterion of another kind, are not traced")
    def _targets(
        self, pixel_values: Tensor, pixel_mask: Tensor | None, mask_labels, class_labels, counted_by_labels: bool
    ) -> list[MaskTargets]:
        """Per image."""
        check_shapes(pixel_values, pixel_mask, self._num_channels)
        given = tuple(pixel_values.shape[-2:])
        pixel_values, pixel_mask, mask_labels, class_labels = values_of(
            (pixel_values, pixel_mask, mask_labels, class_labels)
        )
        with untransformed():
            return prepare_targets(
                mask_labels,
                class_labels,
                image_sizes=[tuple(size) for size in image_sizes(pixel_values, pixel_mask).tolist()],
                given_size=given,
                canvas=tuple(round_up(length) for length in given),
                padding_counts=not masks_padding(self.config, pixel_values, pixel_mask),
                num_classes=self.config.num_labels,
                num_queries=self.config.num_queries,
                device=pixel_values.device,
                counted_by_labels=counted_by_labels,
            )


_SHARED_FIELDS = (
    "encoder_last_hidden_state",
    "pixel_decoder_last_hidden_state",
    "transformer_decoder_last_hidden_state",
    "encoder_hidden_states",
    "pixel_decoder_hidden_states",
    "transformer_decoder_hidden_states",
    "hidden_states",
    "attentions",
    "cross_attentions",
    "valid_sizes",
    "input_sizes",
)


def _is_labelled(mask_labels, class_labels) -> bool:
    if (mask_labels is None) != (class_labels is None):
        missing = "mask_labels" if mask_labels is None else "class_labels"
        raise ValueError(f"{missing} is missing: mask_labels and class_labels are needed together.")
    return mask_labels is not None


def masks_padding(config: M2FConfig, pixel_values: Tensor, pixel_mask: Tensor | None) -> bool:
    """Whether there is padding to keep out of computations: what the mask names, and with a mask also what the model
    adds itself. Without a mask nothing is masked: the original's behaviour."""
    if not config.mask_padding or pixel_mask is None:
        return False
    size = pixel_values.shape[-2:]
    return has_padding(pixel_mask) or any(round_up(length) != length for length in size)


def _transformable_attention() -> AbstractContextManager:
    """Within transformations of torch.func, of torch's forms of attention the one that they are defined for."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not is_transformed():
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


def _default(argument: bool | None, configured: bool | None) -> bool:
    return bool(configured if argument is None else argument)


def _selected(states: tuple[Tensor, ...] | None, indices: bool | list[int]) -> tuple[Tensor | None, ...] | None:
    """All states, or with a list of indices only those, the others None (transformers 5.23)."""
    if states is None or isinstance(indices, bool):
        return states
    wanted = {i % len(states) for i in indices}
    return tuple(state if i in wanted else None for i, state in enumerate(states))
