"""Models of transformers' Mask2Former as ours and back, in memory: same weights, nothing copied."""

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.initialization import no_init_weights

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation, M2FModel
from m2f.modeling_m2f.pretrained_model import M2FPreTrainedModel

Target = TypeVar("Target", bound=PreTrainedModel)


def convert(model: PreTrainedModel) -> M2FPreTrainedModel:
    """A loaded model of transformers' Mask2Former as ours.

    Weights are shared, not copied: a change in one model is a change in the other, and only one of the two is to be
    trained. Device, dtype, gradients asked for, and training or evaluation mode stay; hooks are not taken over.
    Where they differ from transformers' results, ours are the paper's: padding that `pixel_mask` names is masked
    (`config.mask_padding = False` sees it as transformers does), and BatchNorm of a ResNet is frozen, as its released
    checkpoints were trained.

    Args:
        model: a `Mask2FormerForUniversalSegmentation`, which becomes an `M2FForUniversalSegmentation`, or a
            `Mask2FormerModel`, which becomes an `M2FModel`.

    Raises:
        TypeError: a model of another class.
        ValueError: weights that are not loaded (on the meta device), or are not those of the configuration.
    """
    from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerModel

    classes: dict[type[PreTrainedModel], type[M2FPreTrainedModel]] = {
        Mask2FormerForUniversalSegmentation: M2FForUniversalSegmentation,
        Mask2FormerModel: M2FModel,
    }
    target_class = _counterpart(model, classes)
    config = M2FConfig.from_dict(model.config.to_dict(), name_or_path=model.config.name_or_path)
    return _with_weights_of(model, target_class, config)


def to_transformers(model: M2FPreTrainedModel) -> PreTrainedModel:
    """The opposite of `convert`: a model of transformers' Mask2Former that shares our model's weights.

    Fields of the configuration that transformers does not have (`task`, `thing_label_ids`, ...) are kept in it, so
    that nothing is lost on the way back.

    Raises:
        TypeError: a model of another class.
        ValueError: weights that are not loaded (on the meta device); or it has what transformers' network has not:
            LoRA adapters, or layers that attend without masks.
    """
    from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerModel

    _check_network(getattr(model, "config", None))
    classes: dict[type[PreTrainedModel], type[PreTrainedModel]] = {
        M2FForUniversalSegmentation: Mask2FormerForUniversalSegmentation,
        M2FModel: Mask2FormerModel,
    }
    target_class = _counterpart(model, classes)
    return _with_weights_of(model, target_class, to_transformers_config(model.config))


def to_transformers_config(config: M2FConfig) -> PretrainedConfig:
    """A `Mask2FormerConfig` of the same network; fields that it does not have are kept in it, unread."""
    from transformers import Mask2FormerConfig

    fields = {**config.to_dict(), "model_type": Mask2FormerConfig.model_type}
    for name in ("architectures", "auto_map"):  # of our classes, and of remote code
        fields.pop(name, None)
    return Mask2FormerConfig.from_dict(fields)


def _check_network(config: Any):
    """Raise ValueError where transformers' Mask2Former is another network without saying so."""
    if getattr(config, "backbone_lora", None) is not None:
        raise ValueError("the model has LoRA adapters, which transformers' has not; merge them first (`m2f merge`)")
    if getattr(config, "masked_layers", None) is not None:
        raise ValueError(
            f"the model was trained with mask annealing (masked_layers={config.masked_layers}), and transformers' has "
            "masks in all layers; it cannot be one of transformers'"
        )


def _counterpart(model: Any, classes: dict[type[PreTrainedModel], type[Target]]) -> type[Target]:
    for source, target in classes.items():
        if isinstance(model, source):
            return target
    names = " or ".join(source.__name__ for source in classes)
    raise TypeError(
        f"a {type(model).__name__} was given; {names} is needed. Of a compiled or wrapped model give the model inside "
        "(such as compiled._orig_mod, or wrapped.module)"
    )


def _with_weights_of(source: PreTrainedModel, target_class: type[Target], config: Any) -> Target:
    with no_init_weights():
        target = target_class(config)
    _share_tensors(source, target)
    modes = {name: module.training for name, module in source.named_modules()}
    for name, module in target.named_modules():
        module.training = modes.get(name, source.training)
    return target


def _share_tensors(source: PreTrainedModel, target: PreTrainedModel):
    """Put the source's parameters and buffers in place of the target's. What is a buffer in one of the two models and
    a parameter in the other (frozen BatchNorm) stays what it is in each."""
    given = {name: tensor for name, _, _, tensor in _tensors(source)}
    if unloaded := [name for name, tensor in given.items() if tensor.is_meta]:
        raise ValueError(
            f"{len(unloaded)} weights are not loaded (meta device), such as {unloaded[0]}; load them first"
        )
    missing, device = [], next(source.parameters()).device
    for name, module, leaf, old in list(_tensors(target)):
        new = given.get(name)
        if new is None and not _is_saved(module, leaf):
            new = old.to(device)  # a table that the constructor computes
        if new is None or new.shape != old.shape:
            missing.append(name)
        elif leaf in module._buffers:
            module._buffers[leaf] = new.detach() if isinstance(new, nn.Parameter) else new
        else:
            module._parameters[leaf] = new if isinstance(new, nn.Parameter) else nn.Parameter(new, requires_grad=False)
    if missing:
        raise ValueError(
            f"{len(missing)} weights of a {type(target).__name__} are missing in the given {type(source).__name__} or "
            f"have another shape: {', '.join(sorted(missing))}"
        )


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Name in files (where it is saved), owner, name in the owner, tensor. Two backbone classes may have different
    names in memory for what has the same name in files."""
    in_files = _names_in_files(model)
    for prefix, module in model.named_modules():
        for tensors in (module._parameters, module._buffers):
            for leaf, tensor in tensors.items():
                if tensor is not None:
                    name = f"{prefix}.{leaf}" if prefix else leaf
                    yield in_files.get(name, name), module, leaf, tensor


def _names_in_files(model: PreTrainedModel) -> dict[str, str]:
    names = list(model.state_dict())
    numbered = {name: torch.tensor(i) for i, name in enumerate(names)}
    return {names[int(i)]: name for name, i in revert_weight_conversion(model, numbered).items()}


def _is_saved(module: nn.Module, leaf: str) -> bool:
    return leaf in module._parameters or leaf not in module._non_persistent_buffers_set
