"""Which stages of a backbone are read: four of strides 4 to 32, or one or four of a plain Vision Transformer."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# All their stages have the stride of their patches; `FeaturePyramid` makes the others of it.
PLAIN_VITS = (
    "beit",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "pixio",
    "sapiens2",
    "tipsv2_vision_model",
    "vitdet",
)
# FocalNet's stages end after their downsampling, all but the last, so that its third and fourth have the same stride.
_FOUR_STAGES = {"focalnet": ["stem", "stage1", "stage2", "stage4"]}


def is_plain_vit(config: PretrainedConfig) -> bool:
    """Whether all stages have one stride; a BEiT with `add_fpn` makes four strides itself."""
    return config.model_type in PLAIN_VITS and not getattr(config, "add_fpn", False)


def name_stages(config: Any):
    """A classification config names the last stage only. A plain Vision Transformer needs no more, of others the pixel
    decoder reads the last four."""
    if config.model_type == "timm_backbone" and list(config.out_indices) == [-1]:
        config.out_indices = [-4, -3, -2, -1]  # its stages have no names before it is built
    stages = getattr(config, "stage_names", None)
    if stages is None or len(stages) < 4 or is_plain_vit(config) or list(config.out_features) != [stages[-1]]:
        return
    config.out_features = list(_FOUR_STAGES.get(config.model_type, stages[-4:]))


def check_stages(model_type: str, fields: Mapping[str, Any]):
    """Raise ValueError where `out_features` or `out_indices` among the fields of a backbone names no stage of it."""
    given = {name: fields[name] for name in ("out_features", "out_indices") if fields.get(name) is not None}
    for name, value in given.items():
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"backbone_config.{name}={reprlib.repr(value)} must be a list of stages.")
    others = {name: value for name, value in fields.items() if name not in given}
    try:
        stages = getattr(CONFIG_MAPPING[model_type].from_dict(others), "stage_names", None) if given else None
    except ValueError:  # one that needs its stages named, and checks them itself when it is made
        return
    if stages is None:
        return
    wrong = [stage for stage in given.get("out_features", ()) if stage not in stages]
    wrong += [i for i in given.get("out_indices", ()) if i not in range(-len(stages), len(stages))]
    if wrong:
        raise ValueError(
            f"backbone_config.{next(iter(given))} names {reprlib.repr(wrong)}, no stage of this {model_type}; it has "
            f"{len(stages)}, {_shortened(stages)}."
        )


def fixed_size(config: PretrainedConfig) -> tuple[int, int] | None:
    """Height and width of the only inputs that the backbone takes; None where it takes all. Position embeddings of a
    Hiera and absolute ones of a Swin are not interpolated."""
    if config.model_type != "hiera" and not getattr(config, "use_absolute_embeddings", False):
        return None
    size: Any = getattr(config, "image_size", None)
    return tuple(size) if isinstance(size, list | tuple) else (size, size)


def patch_size(config: PretrainedConfig) -> int:
    """Height and width of a plain Vision Transformer's patches.

    Raises:
        ValueError: they are not square.
    """
    size: Any = getattr(config, "patch_size", None)
    sizes = set(size) if isinstance(size, list | tuple) else {size}
    if len(sizes) != 1:
        raise ValueError(f"backbone_config.patch_size={reprlib.repr(size)} must be one number; patches are square.")
    return sizes.pop()


def _shortened(stages: Sequence[str]) -> str:
    return ", ".join(stages) if len(stages) <= 6 else f"{stages[0]}, {stages[1]} to {stages[-1]}"
