"""M2FConfig: every architectural choice of Mask2Former, under transformers' names.

Sources: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022 (the values of
its COCO models are the defaults); transformers' `Mask2FormerConfig` (names, so that configs are interchangeable).
"""

import copy
import reprlib
import sys
from collections.abc import Callable, Sequence
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from m2f.configuration.backbone_stages import check_stages, name_stages
from m2f.configuration.config_values import (
    check_adapters,
    check_backbone,
    check_fields,
    check_label_count,
    check_values,
    checked_labels,
    is_number,
)

# That of the package, which remote code cannot ask: it runs where m2f is not installed.
M2F_VERSION = "0.1.0"
VERSION_FIELD = "m2f_version"  # in config.json: which version wrote the checkpoint
# The weights that the paper's authors published are under this licence (facebookresearch/Mask2Former, MODEL_ZOO.md),
# and so is what is trained from them. A field of config.json, because all that saves a model writes it again.
LICENSE_FIELD = "weights_license"
ORIGINAL_LICENSE = "cc-by-nc-4.0"
ORIGINAL_REPOSITORIES = "facebook/mask2former-"  # of the Hub, which hold the same weights
TASKS = ("panoptic", "instance", "semantic")

# transformers' default backbone, so that a config.json that leaves it out means the same network in both.
DEFAULT_BACKBONE = {
    "model_type": "swin",
    "depths": [2, 2, 18, 2],
    "drop_path_rate": 0.3,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


class M2FConfig(PretrainedConfig):
    r"""Configuration of `M2FModel` and `M2FForUniversalSegmentation`.

    Every field of transformers' `Mask2FormerConfig` is here under the same name with the same default, and its
    `config.json` is read as it is. The fields after `output_auxiliary_logits` are ours.

    Args:
        backbone_config: configuration of any backbone of `transformers.AutoBackbone` with four feature maps of
            strides 4, 8, 16 and 32, as an object or a dict with `model_type`. `None`: Swin-S. A configuration that
            names no `out_features` gets its last four stages. Or one of a plain Vision Transformer (`PLAIN_VITS` in
            `m2f.configuration.backbone_stages`), whose last stage, or four, are made into such maps by a feature
            pyramid.
        feature_size: channels of the pixel decoder's feature maps; a multiple of 32 (GroupNorm's groups) and of
            `num_attention_heads`.
        mask_feature_size: channels of the mask features and mask embeddings.
        hidden_dim: channels of the queries in the Transformer decoder.
        encoder_feedforward_dim: inner size of the feed-forward networks in the pixel decoder.
        activation_function: activation in the Transformer decoder's feed-forward networks.
        encoder_layers: layers of deformable attention in the pixel decoder.
        decoder_layers: predictions of the Transformer decoder: one from the learned queries and one after each of
            its `decoder_layers - 1` layers.
        num_attention_heads: heads of every attention outside the backbone.
        dropout: in [0, 1); acts in the pixel decoder only. transformers also drops inside and whole layers of the
            Transformer decoder, which the paper does not and which crashes there.
        dim_feedforward: inner size of the feed-forward networks in the Transformer decoder.
        pre_norm: normalise before instead of after each block of the Transformer decoder.
        enforce_input_projection: 1x1 convolution before the Transformer decoder even where the sizes agree.
        common_stride: stride of the mask features.
        ignore_value: kept so that configurations are interchangeable; the image processor's `ignore_index` decides.
        num_queries: number of queries, the most segments that one image can have.
        no_object_weight: weight of the "no object" class in the classification loss.
        class_weight, mask_weight, dice_weight: weights of the three losses, in the matching cost too.
        train_num_points: points per mask in the matching cost and the mask losses.
        oversample_ratio: >= 1; that many times more points are drawn to choose the uncertain ones from.
        importance_sample_ratio: in [0, 1]; share of the points that are chosen by uncertainty.
        init_std: kept so that configurations are interchangeable; the original's initialisation has no such number.
        init_xavier_std: gain of the Xavier initialisations.
        use_auxiliary_loss: whether every prediction of the decoder is supervised, not only the last.
        feature_strides: strides of the backbone's four feature maps.
        output_auxiliary_logits: whether the model returns the earlier predictions too.
        task: "panoptic", "instance" or "semantic": what the labels mean; decides what post-processing does where it
            is not told.
        thing_label_ids: ids of the labels with countable objects; all other labels are stuff, whose segments are
            fused. `None`: all labels are things ("semantic": none is).
        mask_padding: whether `pixel_mask` keeps the padding out of the pixel decoder and the Transformer decoder, so
            that an image gives the same result in every batch. `False`: padding is seen as in the original, and
            `pixel_mask` tells only where it is.
        backbone_frozen_batch_norm: whether BatchNorm layers of the backbone are frozen, weights and statistics (the
            original's FrozenBN of its ResNets; its Cityscapes models have `False`).
        class_weights: (K,) numbers >= 0, the weight of each label in the classification loss, so that rare ones count
            more; "no object" has `no_object_weight`. The mask losses and the matching do not know them. `None`: those
            of the checkpoint that is loaded, 1 each in a new model.
        recompute_feedforward: whether training computes the wide activations of the feed-forward networks in backbone
            and pixel decoder again instead of keeping them: a third less memory for a few percent of the time.
        masked_layers: how many of the Transformer decoder's layers, the last ones, attend only where the previous
            prediction puts foreground; `None`: all, as in the paper. 0: none, as after a training that faded the masks
            out (Kerssies et al. 2025, "mask annealing"); the others attend to the whole image.
        backbone_lora: LoRA adapters in the backbone (Hu et al. 2022), {"rank": 8, "targets": ["q_proj", ...]}, where
            a target is the end of a linear layer's or convolution's name; needs PEFT. `None`: there are none.

    Numbers have upper limits too, which are in `m2f.configuration.config_values` with their reasons: nobody trains
    10,000 queries, and a file that asks for 10^9 is refused before any memory is taken. Ids of `id2label` are 0 to
    K - 1, because they are the places of the classes in the logits.

    Raises:
        ValueError: an unknown `task` or backbone, a value of another type or out of its range, label ids with gaps, or
            pretrained weights asked for here: see `M2FForUniversalSegmentation.from_pretrained_backbone`.
    """

    model_type = "m2f"
    sub_configs = {"backbone_config": AutoConfig}
    attribute_map = {"hidden_size": "hidden_dim", "num_hidden_layers": "decoder_layers"}
    # What Trainer must not gather during evaluation; masks and classes are all that a metric needs.
    keys_to_ignore_at_inference = [
        "loss_dict",
        "auxiliary_logits",
        "encoder_last_hidden_state",
        "pixel_decoder_last_hidden_state",
        "transformer_decoder_last_hidden_state",
        "encoder_hidden_states",
        "pixel_decoder_hidden_states",
        "transformer_decoder_hidden_states",
        "transformer_decoder_intermediate_states",
        "mask_embeddings",
        "hidden_states",
        "attentions",
        "cross_attentions",
    ]

    backbone_config: dict | PretrainedConfig | None = None
    feature_size: int = 256
    mask_feature_size: int = 256
    hidden_dim: int = 256
    encoder_feedforward_dim: int = 1024
    activation_function: str = "relu"
    encoder_layers: int = 6
    decoder_layers: int = 10
    num_attention_heads: int = 8
    dropout: float = 0.0
    dim_feedforward: int = 2048
    pre_norm: bool = False
    enforce_input_projection: bool = False
    common_stride: int = 4
    ignore_value: int = 255
    num_queries: int = 100
    no_object_weight: float = 0.1
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    train_num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75
    init_std: float = 0.02
    init_xavier_std: float = 1.0
    use_auxiliary_loss: bool = True
    feature_strides: list[int] | tuple[int, ...] = (4, 8, 16, 32)
    output_auxiliary_logits: bool | None = None
    task: str = "panoptic"
    thing_label_ids: list[int] | None = None
    mask_padding: bool = True
    backbone_frozen_batch_norm: bool = True
    recompute_feedforward: bool = True
    class_weights: list[float] | None = None
    masked_layers: int | None = None
    backbone_lora: dict[str, Any] | None = None

    def __post_init__(self, **kwargs):
        backbone_kwargs = {name: kwargs.pop(name, None) for name in ("backbone", "backbone_kwargs")}
        use_timm_backbone = kwargs.pop("use_timm_backbone", False)
        if kwargs.pop("use_pretrained_backbone", False):
            raise ValueError(
                f"use_pretrained_backbone=True with backbone={backbone_kwargs['backbone']!r}: a config describes "
                "an architecture and loads no weights. Use M2FForUniversalSegmentation.from_pretrained_backbone(name, "
                "config), which raises where the weights cannot be had."
            )
        self.backbone_config = _resolve_backbone_config(
            self.backbone_config, use_timm_backbone=use_timm_backbone, **backbone_kwargs
        )
        kwargs.pop(VERSION_FIELD, None)  # of the file, which is not the version that saves the next one
        if self.id2label is not None:
            self.id2label = checked_labels(self.id2label)
        elif kwargs.get("num_labels") is not None:
            check_label_count(kwargs["num_labels"])
        else:
            kwargs.pop("num_labels", None)
        _checked(lambda: super(M2FConfig, self).__post_init__(**kwargs), "a field of the configuration")
        self.check()

    def check(self):
        """Raise ValueError where fields contradict each other or are out of range; the model's constructor calls it
        again, because fields may be set after construction."""
        check_values(self)
        checked_labels(self.id2label)
        _check_dtype(self.dtype)
        if not isinstance(self.backbone_config, PretrainedConfig):
            raise ValueError(f"backbone_config={reprlib.repr(self.backbone_config)} is no configuration.")
        check_backbone(self.backbone_config.to_dict())
        check_adapters(self.backbone_lora)
        if self.task not in TASKS:
            raise ValueError(f"task={reprlib.repr(self.task)} is unknown; it must be one of {', '.join(TASKS)}.")
        if self.thing_label_ids is not None:
            self._check_thing_label_ids(self.thing_label_ids)
        if self.class_weights is not None:
            self.class_weights = self._checked_class_weights()
        for name in ("feature_size", "hidden_dim"):
            if getattr(self, name) % self.num_attention_heads:
                raise ValueError(
                    f"{name}={getattr(self, name)} is no multiple of num_attention_heads={self.num_attention_heads}."
                )
        if self.feature_size % 32:
            raise ValueError(f"feature_size={self.feature_size} is not a multiple of 32, the groups of GroupNorm.")

    def _check_thing_label_ids(self, ids: Sequence[int]):
        assert self.num_labels is not None  # two, where neither they nor their number were given
        if isinstance(ids, str) or not isinstance(ids, Sequence | set) or not all(map(_is_whole, ids)):
            raise ValueError(f"thing_label_ids={reprlib.repr(ids)} must be a list of label ids, or None.")
        wrong = [i for i in ids if not 0 <= i < self.num_labels]
        if wrong:
            raise ValueError(
                f"thing_label_ids={reprlib.repr(wrong)} are outside 0..{self.num_labels - 1} "
                f"(num_labels={self.num_labels}); give id2label or num_labels with them, or thing_label_ids=None."
            )
        if len(set(ids)) != len(ids):
            raise ValueError(f"thing_label_ids={reprlib.repr(ids)} names a label twice.")

    def _checked_class_weights(self) -> list[float]:
        """As json has them."""
        weights = getattr(self.class_weights, "tolist", lambda: self.class_weights)()  # of an array or tensor
        if not isinstance(weights, Sequence) or not all(is_number(weight) for weight in weights):
            raise ValueError(
                f"class_weights={reprlib.repr(self.class_weights)} is no list of numbers, one for each of the "
                f"{self.num_labels} labels. (The weight of the classification loss as a whole is class_weight.)"
            )
        if len(weights) != self.num_labels:
            raise ValueError(
                f"class_weights has {len(weights)} entries, but there are {self.num_labels} labels; give one for "
                'each (that of "no object" is no_object_weight), or class_weights=None with other labels.'
            )
        wrong = {i: weight for i, weight in enumerate(weights) if not 0 <= weight <= sys.float_info.max}
        if wrong:
            raise ValueError(
                f"class_weights of the labels {reprlib.repr(wrong)} (id: weight) must be finite and >= 0."
            )
        if not any(weights):
            raise ValueError("class_weights are all 0: no class would be learned.")
        return [float(weight) for weight in weights]

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | PathLike, **kwargs) -> tuple[dict[str, Any], dict]:
        """As in transformers; a `mask2former` config.json is read as an m2f one, without its "different model type"
        warning, because every field of it has the same meaning here."""
        config_dict, kwargs = _checked(
            lambda: super(M2FConfig, cls).get_config_dict(pretrained_model_name_or_path, **kwargs),
            f"the config.json of {pretrained_model_name_or_path}",
        )
        check_fields(config_dict)
        return _with_license(_from_mask2former(config_dict), pretrained_model_name_or_path), kwargs

    def save_pretrained(self, save_directory: str | PathLike, *args, **kwargs):
        """As in transformers; with the version of m2f that writes, and of an `auto_map` that came with remote code
        only what names files in the folder.

        transformers writes it back as it was read, and a folder whose code is not there cannot be loaded.
        """
        saved = copy.copy(self)
        setattr(saved, VERSION_FIELD, M2F_VERSION)
        backbone: Any = getattr(saved, "backbone_config", None)
        if saved.dtype is not None and backbone is not None and backbone.dtype is None:
            # As it is after loading, so that a model saved again has the same file.
            backbone = copy.copy(backbone)
            backbone.dtype = saved.dtype
            saved.backbone_config = backbone
        if getattr(self, "auto_map", None) is not None:
            saved.auto_map = _local_references(self.auto_map, Path(save_directory))
            if not saved.auto_map:
                del saved.auto_map
        super(M2FConfig, saved).save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> "M2FConfig":
        """As in transformers; accepts the content of a `mask2former` config.json too.

        Raises:
            ValueError: see the class.
        """
        check_fields(config_dict)
        config_dict = _with_license(_from_mask2former(config_dict), kwargs.get("name_or_path"))
        # transformers makes the configuration with another num_labels before it sets the rest of what is asked for,
        # and what the file says of its labels would not fit.
        of_the_labels: dict[str, Any] = {
            name: kwargs[name] for name in ("class_weights", "thing_label_ids") if name in kwargs
        }
        if "num_labels" in kwargs:
            check_label_count(kwargs["num_labels"])
        found = {**config_dict, **of_the_labels}
        return _checked(lambda: super(M2FConfig, cls).from_dict(found, **kwargs), "the configuration")


def _checked(make: Callable[[], Any], what: str) -> Any:
    """What `make` returns. Other libraries' code meets a file's values there, and fails on them in any way; all but an
    error that says of itself what is wrong is a ValueError of one line."""
    try:
        return make()
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ValueError(f"{what} cannot be read ({reason}); correct the file, or get it again.") from error


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_dtype(dtype: Any):
    """Raise ValueError unless it is a type of floating point numbers, or None."""
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(kind, torch.dtype) and kind.is_floating_point):
        raise ValueError(f"dtype={reprlib.repr(dtype)} is no type of weights; use float32, bfloat16 or float16.")


def _local_references(auto_map: dict[str, str], folder: Path) -> dict[str, str]:
    """The entries whose file is in the folder, without the repository ("repository--file.Class") they came from."""
    local = {name: reference.split("--")[-1] for name, reference in auto_map.items()}
    return {name: value for name, value in local.items() if (folder / f"{value.rsplit('.', 1)[0]}.py").is_file()}


def _with_license(config_dict: dict[str, Any], source: str | PathLike | None) -> dict[str, Any]:
    """With the licence of the published weights, if `source` is a repository that holds them."""
    if not str(source).startswith(ORIGINAL_REPOSITORIES):
        return config_dict
    return {LICENSE_FIELD: ORIGINAL_LICENSE, **config_dict}


def _from_mask2former(config_dict: dict[str, Any]) -> dict[str, Any]:
    if config_dict.get("model_type") != "mask2former":
        return config_dict
    config_dict = {**config_dict, "model_type": M2FConfig.model_type}
    architectures = config_dict.pop("architectures", None) or []
    config_dict["architectures"] = [name.replace("Mask2Former", "M2F") for name in architectures] or None
    return config_dict


def _resolve_backbone_config(
    backbone_config: dict | PretrainedConfig | None,
    backbone: str | None,
    backbone_kwargs: dict | None,
    use_timm_backbone: bool,
) -> PretrainedConfig:
    if backbone_config is not None and backbone is not None:
        raise ValueError(f"Give backbone_config or backbone={reprlib.repr(backbone)}, not both.")
    if backbone is not None:
        backbone_config = _named_backbone_config(backbone, backbone_kwargs or {}, use_timm_backbone)
    elif backbone_config is None:
        backbone_config = dict(DEFAULT_BACKBONE)
    if isinstance(backbone_config, dict):
        fields = backbone_config
        backbone_config = _checked(lambda: _backbone_config_from_dict(fields), "backbone_config")
    if not isinstance(backbone_config, PretrainedConfig):
        raise ValueError(
            f"backbone_config={reprlib.repr(backbone_config)} must hold the fields of a backbone, with model_type."
        )
    found = backbone_config
    _checked(lambda: name_stages(found), "backbone_config")
    return found


def _named_backbone_config(backbone: Any, fields: Any, use_timm_backbone: bool) -> PretrainedConfig:
    if not isinstance(backbone, str) or not isinstance(fields, dict):
        wrong = reprlib.repr((backbone, fields))
        raise ValueError(f"backbone and backbone_kwargs {wrong} must be a name and a mapping of fields.")
    if use_timm_backbone:
        timm_backbone: Callable[..., PretrainedConfig] = CONFIG_MAPPING["timm_backbone"]
        return _checked(lambda: timm_backbone(backbone=backbone, **fields), "backbone_kwargs")
    if "trust_remote_code" in fields:  # a file may not say so, but who loads it
        raise ValueError("backbone_kwargs has trust_remote_code; code for a backbone is not loaded. Leave it out.")
    return _checked(lambda: AutoConfig.from_pretrained(backbone, **fields), "backbone_kwargs")


def _backbone_config_from_dict(fields: dict[str, Any]) -> PretrainedConfig:
    check_backbone(fields)
    model_type = fields.get("model_type", DEFAULT_BACKBONE["model_type"])
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"backbone_config.model_type={reprlib.repr(model_type)} is unknown to transformers; use one that "
            "AutoBackbone has, such as swin, resnet or convnext."
        )
    check_stages(model_type, fields)
    return CONFIG_MAPPING[model_type].from_dict(fields)
