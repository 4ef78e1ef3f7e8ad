"""The adapters of a model alone, in PEFT's form, beside the whole model in the output folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from m2f.modeling_m2f.adapters import peft_config
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.training_state import save_tensors

ADAPTER = "adapter"
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"  # PEFT's names
_BACKBONE = "model.pixel_level_module.encoder."
_FIRST, _OWN_NAME = ".lora_A.default.weight", ".default."  # PEFT's for the adapter that has no name


class AdapterSize(NamedTuple):
    """How small adapters are."""

    layers: int
    parameters: int
    share: float  # of the model's parameters


def save_adapters(model: M2FForUniversalSegmentation, weights: Mapping[str, Tensor], base: str | None, folder: Path):
    """The adapters of the backbone, which `peft.PeftModel.from_pretrained(backbone, folder)` reads.

    Args:
        weights: of the whole model, by its names.
        base: name of the backbone or checkpoint that they belong to.

    Raises:
        OSError: a file cannot be written.
    """
    assert model.config.backbone_lora is not None  # nobody calls this without adapters
    folder.mkdir(parents=True, exist_ok=True)
    own = {name.removeprefix(_BACKBONE): tensor for name, tensor in weights.items() if ".lora_" in name}
    layers = sorted(name.removesuffix(_FIRST) for name in own if name.endswith(_FIRST))
    save_tensors({f"base_model.model.{n.replace(_OWN_NAME, '.')}": t for n, t in own.items()}, folder / _WEIGHTS)
    fields = peft_config(model.config.backbone_lora["rank"], layers).to_dict()
    fields |= {"base_model_name_or_path": base, "target_modules": layers, "inference_mode": True}
    (folder / _CONFIG).write_text(json.dumps(fields, indent=1, default=list) + "\n", encoding="utf-8")


def adapter_size(model: M2FForUniversalSegmentation) -> AdapterSize:
    """Of a model with adapters."""
    numbers = {name: parameter.numel() for name, parameter in model.named_parameters()}
    own = {name: number for name, number in numbers.items() if ".lora_" in name}
    layers = sum(name.endswith(_FIRST) for name in own)
    return AdapterSize(layers, sum(own.values()), sum(own.values()) / sum(numbers.values()))
