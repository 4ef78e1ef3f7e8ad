"""The backbone: any of transformers' AutoBackbone classes with feature maps of strides 4, 8, 16 and 32."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoBackbone, PretrainedConfig, PreTrainedModel
from transformers import initialization as init

from m2f.configuration.config_values import MOST_PARAMETERS
from m2f.modeling_m2f.frozen_batch_norm import freeze_batch_norm
from m2f.modeling_m2f.swin import use_lean_layers
from m2f.modeling_m2f.weight_init import torch_default_

# Parameters that a backbone class owns and never uses. As parameters they would get no gradient, and distributed
# training would wait for one (transformers needs find_unused_parameters here); as buffers they keep their names.
UNUSED_MODULES = {"swin": "swin.layernorm", "swinv2": "layernorm"}

STAGES = ("SwinStage", "ResNetStage", "ConvNextStage")

# Made anew for every dense task: classification checkpoints have no norms on their intermediate feature maps.
NEW_IN_A_BACKBONE = "hidden_states_norms"


def build_backbone(config: PretrainedConfig, frozen_batch_norm: bool) -> PreTrainedModel:
    """A backbone with random weights.

    Raises:
        ValueError: the configuration is not one of a backbone, describes one that cannot be built or has more than
            `MOST_PARAMETERS`, or does not give four feature maps.
    """
    _check_size(config)
    backbone = _built(config)
    if len(backbone.channels) != 4:
        raise ValueError(
            f"The backbone {config.model_type!r} gives {len(backbone.channels)} feature maps "
            f"({list(backbone.out_features)}); four are needed, of strides 4, 8, 16 and 32. Set "
            "backbone_config.out_features to four stages."
        )
    use_lean_layers(backbone)
    if config.model_type in UNUSED_MODULES:
        _turn_parameters_into_buffers(backbone, UNUSED_MODULES[config.model_type])
    if frozen_batch_norm:
        freeze_batch_norm(backbone)
    return backbone


def _built(config: PretrainedConfig) -> Any:
    """Its own code meets the values of a file here, and fails on those that make no sense in any way."""
    try:
        backbone: Any = AutoBackbone.from_config(config)
        len(backbone.channels)  # computed when it is asked for
        return backbone
    except MemoryError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ValueError(f"No {config.model_type} can be built from backbone_config ({reason}).") from error


def _check_size(config: PretrainedConfig):
    """Raise ValueError before memory is taken that no machine has; on the meta device a network takes none."""
    with torch.device("meta"), init.no_init_weights():
        backbone = _built(config)
    count = sum(tensor.numel() for tensor in (*backbone.parameters(), *backbone.buffers()))
    if count > MOST_PARAMETERS:
        raise ValueError(
            f"backbone_config describes a {config.model_type} of {count:.2g} parameters; at most "
            f"{MOST_PARAMETERS:.2g} are built."
        )


def _turn_parameters_into_buffers(backbone: nn.Module, name: str):
    names = dict(backbone.named_modules())
    if name not in names:
        return
    module = names[name]
    for parameter_name, parameter in list(module.named_parameters(recurse=False)):
        delattr(module, parameter_name)
        module.register_buffer(parameter_name, parameter.detach())


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
        ValueError: it lacks weights, or has them in other shapes; all their names are listed.
    """
    backbone_class = type(backbone)
    loaded: Any = backbone_class.from_pretrained(  # a pair, which the annotation does not know
        name_or_path, config=backbone.config, output_loading_info=True, ignore_mismatched_sizes=True
    )
    pretrained, report = loaded
    missing = sorted(name for name in report["missing_keys"] if NEW_IN_A_BACKBONE not in name)
    mismatched = sorted(str(entry) for entry in report["mismatched_keys"])
    unused = UNUSED_MODULES.get(backbone.config.model_type)
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
