"""Which part of the backbone a run trains: all of it, LoRA adapters, or nothing."""

from typing import Any

from m2f.modeling_m2f.adapters import (
    attention_projections,
    require_peft,
    target_layers,
    train_adapters_alone,
)
from m2f.modeling_m2f.backbone import backbone_without_memory
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.block_depths import block_depths
from m2f.training.training_options import TrainingOptions


def check_backbone_training(options: TrainingOptions, config: Any):
    """To be asked before weights are loaded.

    Args:
        config: the `M2FConfig` of the model.

    Raises:
        ValueError: PEFT is not installed; the targets of the adapters match no layer of the backbone, or it has other
            adapters; or it does not tell how deep its layers lie, where the learning rate is to follow from that.
    """
    _check_adapters(options, config)
    if not (options.lora or options.layer_decay):
        return
    backbone = backbone_without_memory(config.backbone_config)
    if options.layer_decay:
        block_depths(backbone)
    if options.lora:
        require_peft()
        target_layers(backbone, options.lora_targets or attention_projections(backbone))


def prepare_backbone(options: TrainingOptions, model: M2FForUniversalSegmentation):
    """Adds adapters where the options ask for some and the model has none yet, and freezes what is not trained.

    Raises:
        ValueError: as `check_backbone_training`.
    """
    _check_adapters(options, model.config)
    if options.freeze_backbone:
        model.freeze_backbone()
    if options.lora:
        if model.config.backbone_lora is None:
            model.add_backbone_adapters(options.lora, options.lora_targets)
        train_adapters_alone(model.model.pixel_level_module.encoder)


def _check_adapters(options: TrainingOptions, config: Any):
    """Raise ValueError where a model with adapters is to be trained in another way than by them."""
    found = config.backbone_lora
    if found is None or options.freeze_backbone:
        return
    rank, targets = found["rank"], found["targets"]
    if options.lora != rank or (options.lora_targets and list(options.lora_targets) != list(targets)):
        raise ValueError(
            f"the model has LoRA adapters of rank {rank} on {' '.join(targets)}, and the run is to have "
            f"{f'others (--lora {options.lora})' if options.lora else 'none'}; go on with --lora {rank} (and these "
            "--lora-targets or none), or merge them first with `m2f merge`"
        )
