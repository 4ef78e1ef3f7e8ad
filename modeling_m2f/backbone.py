"""The backbone: any of transformers' AutoBackbone classes with feature maps of strides 4, 8, 16 and 32, or a plain
Vision Transformer, whose maps have one stride."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoBackbone, PretrainedConfig, PreTrainedModel
from transformers import initialization as init

from m2f.configuration.backbone_stages import fixed_size, is_plain_vit, patch_size
from m2f.configuration.config_values import MOST_PARAMETERS
from m2f.modeling_m2f.frozen_batch_norm import freeze_batch_norm
from m2f.modeling_m2f.swin import use_lean_layers
from m2f.modeling_m2f.weight_init import torch_default_

# What the names of parameters begin with that a backbone class owns and never uses. As parameters they would get no
# gradient, and distributed training would wait for one (transformers needs find_unused_parameters here); as buffers
# they keep their names.
UNUSED = {
    "beit": "beit.embeddings.mask_token",
    "bit": "bit.norm.",
    "dinov2": "embeddings.mask_token",
    "dinov2_with_registers": "embeddings.mask_token",
    "dinov3_vit": "embeddings.mask_token",
    "focalnet": "focalnet.layernorm.",
    "maskformer-swin": "model.layernorm.",
    "pixio": "pixio.layernorm.",
    "sapiens2": "embeddings.mask_token",
    "swin": "swin.layernorm.",
    "swinv2": "layernorm.",
    "tipsv2_vision_model": "embeddings.mask_token",
}

STAGES = ("SwinStage", "ResNetStage", "ConvNextStage")

# Made anew for every dense task: classification checkpoints have no norms on their intermediate feature maps.
NEW_IN_A_BACKBONE = "hidden_states_norms"

_TRIAL_CELLS = 4  # of the coarsest map per axis


class BuiltBackbone(NamedTuple):
    """A backbone, and the channels of its maps as they come out of it; HGNet-V2's `channels` are others."""

    backbone: PreTrainedModel
    channels: list[int]


def build_backbone(config: PretrainedConfig, frozen_batch_norm: bool, strides: list[int]) -> BuiltBackbone:
    """A backbone with random weights.

    Raises:
        ValueError: the configuration is not one of a backbone, describes one that cannot be built or has more than
            `MOST_PARAMETERS`, or does not give feature maps of these strides, nor is a plain Vision Transformer.
    """
    channels = _channels_of_maps(config, strides)
    backbone = _built(config)
    use_lean_layers(backbone)
    _turn_parameters_into_buffers(backbone, UNUSED.get(config.model_type))
    if frozen_batch_norm:
        freeze_batch_norm(backbone)
    return BuiltBackbone(backbone, channels)


def _built(config: PretrainedConfig) -> Any:
    """Its own code meets the values of a file here, and fails on those that make no sense in any way."""
    try:
        backbone: Any = AutoBackbone.from_config(config)
        len(backbone.channels)  # computed when it is asked for
        return backbone
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"No {config.model_type} can be built from backbone_config ({_reason(error)}).") from error


def backbone_without_memory(config: PretrainedConfig) -> Any:
    """On the meta device, where a network takes no memory.

    Raises:
        ValueError: as `build_backbone`, where nothing can be built.
    """
    with torch.device("meta"), init.no_init_weights():
        return _built(config)


def _channels_of_maps(config: PretrainedConfig, strides: list[int]) -> list[int]:
    """Raise ValueError before memory is taken that no machine has, or weights are looked for that would not do; a
    trial on the meta device takes no time."""
    backbone = backbone_without_memory(config)
    count = sum(tensor.numel() for tensor in (*backbone.parameters(), *backbone.buffers()))
    if count > MOST_PARAMETERS:
        raise ValueError(
            f"backbone_config describes a {config.model_type} of {count:.2g} parameters; at most "
            f"{MOST_PARAMETERS:.2g} are built."
        )
    if is_plain_vit(config):
        strides = [patch_size(config)] * len(backbone.channels)
    elif len(backbone.channels) != 4:
        raise ValueError(
            f"The backbone {config.model_type!r} gives {len(backbone.channels)} feature maps "
            f"({list(backbone.out_features)}); four are needed, of strides {_listed(strides)}. Set "
            "backbone_config.out_features to four stages."
        )
    canvas = fixed_size(config) or (_TRIAL_CELLS * max(strides),) * 2
    maps = _trial(backbone.eval(), canvas)
    try:
        check_strides(maps, canvas, strides)
    except ValueError as error:
        raise ValueError(
            f"{error} Name stages of these strides in backbone_config.out_features, or take another backbone than "
            f"this {config.model_type}."
        ) from error
    return [features.shape[1] for features in maps]


@torch.no_grad()
def _trial(backbone: Any, canvas: tuple[int, int]) -> tuple[Tensor, ...]:
    """The feature maps of a backbone on the meta device for an input of `canvas` = (H, W)."""
    config = backbone.config
    channels = getattr(config, "num_channels", 3)
    pixels = torch.zeros(1, channels, *canvas, dtype=backbone.dtype, device="meta")
    # Whatever the caller's device: BEiT keeps what it makes here for all models of the process.
    with torch.device("cpu"):
        try:
            maps = tuple(backbone(pixels).feature_maps)
        except Exception as error:
            raise ValueError(
                f"The backbone {config.model_type!r} fails on an input of {canvas[0]} x {canvas[1]} pixels "
                f"({_reason(error)}); correct backbone_config, or take another backbone."
            ) from error
    if any(features.ndim != 4 for features in maps):
        raise ValueError(
            f"The backbone {config.model_type!r} gives tokens, {tuple(maps[0].shape)}, and no feature maps; set "
            "backbone_config.reshape_hidden_states=True, or take another backbone."
        )
    return maps


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _listed(strides: list[int]) -> str:
    return f"{', '.join(map(str, strides[:-1]))} and {strides[-1]}"


def _turn_parameters_into_buffers(backbone: nn.Module, start: str | None):
    """Those whose names begin with `start`."""
    unused = [name for name, _ in backbone.named_parameters() if start is not None and name.startswith(start)]
    for full_name in unused:
        parent, _, name = full_name.rpartition(".")
        module = backbone.get_submodule(parent)
        parameter = getattr(module, name)
        delattr(module, name)
        module.register_buffer(name, parameter.detach())


def check_strides(feature_maps: tuple[Tensor, ...], canvas: tuple[int, ...], strides: list[int]):
    """Raise ValueError unless map i has ceil(canvas / stride_i) cells per axis."""
    sizes = [tuple(x.shape[-2:]) for x in feature_maps]
    expected = [tuple(math.ceil(length / stride) for length in canvas) for stride in strides]
    if sizes != expected:
        raise ValueError(
            f"The backbone's feature maps are {sizes} for an input of {canvas}; strides "
            f"{list(strides)} need {expected}."
        )


def input_embeddings_of(backbone: PreTrainedModel) -> nn.Module:
    """The module that reads the pixels: what the backbone names, or the first of its convolutions."""
    try:
        return backbone.get_input_embeddings()
    except NotImplementedError:
        return backbone.get_submodule(_first_convolution(backbone))


def set_input_embeddings_of(backbone: PreTrainedModel, embeddings: nn.Module):
    """Puts another module in the place of `input_embeddings_of`."""
    try:
        backbone.set_input_embeddings(embeddings)
    except NotImplementedError:
        parent, _, name = _first_convolution(backbone).rpartition(".")
        setattr(backbone.get_submodule(parent), name, embeddings)


def _first_convolution(backbone: nn.Module) -> str:
    names = (name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d))
    if (name := next(names, None)) is None:
        raise NotImplementedError(f"{type(backbone).__name__} names no input embeddings and has no convolution.")
    return name


def unsplit_modules(backbone: PreTrainedModel) -> set[str]:
    """Classes in the backbone whose parts stay on one device: those that it names, and stages with residual sums.
    None that it does not have, because Accelerate's FSDP takes a name without a module for an error."""
    named = {*(backbone._no_split_modules or ()), *STAGES}
    kinds = {type(module) for module in backbone.modules()}
    return {kind.__name__ for kind in kinds if named & {base.__name__ for base in kind.__mro__}}


def load_pretrained_backbone(backbone: PreTrainedModel, name_or_path: str):
    """Fill `backbone` with the weights of a checkpoint of the same architecture, a classification model's too.

    Raises:
        OSError: the checkpoint cannot be found or reached.
        ValueError: it lacks weights, or has them in other shapes; all their names are listed. Or it is timm's, which
            keeps its weights elsewhere.
    """
    if backbone.config.model_type == "timm_backbone":
        raise ValueError(
            f"weights of timm ({name_or_path!r}) are not loaded here; make the model with random ones, and load a "
            "state_dict of timm's network into the _backbone of its pixel_level_module.encoder"
        )
    backbone_class = type(backbone)
    loaded: Any = backbone_class.from_pretrained(  # a pair, which the annotation does not know
        name_or_path, config=backbone.config, output_loading_info=True, ignore_mismatched_sizes=True
    )
    pretrained, report = loaded
    missing = sorted(name for name in report["missing_keys"] if NEW_IN_A_BACKBONE not in name)
    mismatched = sorted(str(entry) for entry in report["mismatched_keys"])
    unused = UNUSED.get(backbone.config.model_type)
    missing = [name for name in missing if unused is None or not name.startswith(unused)]
    if missing or mismatched:
        raise ValueError(
            f"{name_or_path!r} is not a checkpoint of this {backbone_class.__name__}: missing {missing or 'nothing'}; "
            f"other shapes for {mismatched or 'nothing'}. A backbone is never left with random weights where "
            "pretrained ones were asked for."
        )
    backbone.load_state_dict(pretrained.state_dict())


def init_swin_as_original(backbone: PreTrainedModel):
    """The original's Swin starts with PyTorch's default linear layers and normal(0, 0.02) position bias tables;
    transformers' starts with normal(0, 0.02) layers and zero tables. Loaded tensors are left alone."""
    for module in backbone.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            torch_default_(module)
        table = getattr(module, "relative_position_bias_table", None)
        if isinstance(table, nn.Parameter):
            init.trunc_normal_(table, std=0.02)
