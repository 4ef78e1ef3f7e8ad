"""Our model and its peers with the same random weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers import (
    Dinov2Config,
    DINOv3ViTConfig,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PretrainedConfig,
    ResNetConfig,
    SwinConfig,
)

from m2f.bench.exported_peers import PACKAGES, ExportedModel, missing_packages
from m2f.configuration.configuration_m2f import M2FConfig
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_SMALL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_DINOV3 = {"num_register_tokens": 4, "patch_size": 16}
_DINOV2 = {"image_size": 518, "patch_size": 14}
# Backbones of the paper's COCO panoptic models, and their queries; and Vision Transformers.
BACKBONES: dict[str, tuple[type[PretrainedConfig], dict[str, Any], int]] = {
    "swin-tiny": (SwinConfig, {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}, 100),
    "swin-large": (
        SwinConfig,
        {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "window_size": 12},
        200,
    ),
    "resnet-50": (ResNetConfig, {"layer_type": "bottleneck", "depths": [3, 4, 6, 3]}, 100),
    "dinov2-small": (Dinov2Config, {**_SMALL, **_DINOV2}, 100),
    "dinov2-base": (Dinov2Config, {**_BASE, **_DINOV2}, 100),
    "dinov3-small": (DINOv3ViTConfig, {**_SMALL, **_DINOV3, "intermediate_size": 1536}, 100),
    "dinov3-base": (DINOv3ViTConfig, {**_BASE, **_DINOV3, "intermediate_size": 3072}, 100),
}
# Transformers' Mask2Former takes none whose maps have one stride.
OURS_ALONE = tuple(name for name in BACKBONES if name.startswith("dino"))
NUM_CLASSES = 133


class Form(NamedTuple):
    """A model and the way in which it is run.

    Args:
        model: in evaluation mode, on its device; or a part of one.
        autocast: type of the matrix products in an autocast region around the model, or None.
        input_dtype: of the pixels.
    """

    model: Callable[..., Any]
    autocast: torch.dtype | None
    input_dtype: torch.dtype

    def __call__(self, pixel_values: torch.Tensor):
        """The model's outputs for (B, 3, H, W)."""
        device = pixel_values.device.type
        with torch.no_grad(), torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None):
            return self.model(pixel_values.to(self.input_dtype))


class FormKind(NamedTuple):
    """What makes a form.

    Args:
        is_ours: whether the model is ours.
        runner: `EAGER`, `COMPILED`, or a library of `PACKAGES`.
        casts_weights: whether its weights have the type, instead of autocast.
    """

    is_ours: bool
    runner: str
    casts_weights: bool

    @property
    def is_one_piece(self) -> bool:
        """Whether the network's parts cannot be run alone."""
        return self.runner != EAGER


EAGER, COMPILED = "eager", "compiled"
FORMS = {
    "ours": FormKind(True, EAGER, True),
    "ours, autocast": FormKind(True, EAGER, False),
    "ours, compiled": FormKind(True, COMPILED, True),
    "ours, openvino": FormKind(True, "openvino", True),
    "ours, onnxruntime": FormKind(True, "onnxruntime", True),
    "ours, torch-export": FormKind(True, "torch-export", True),
    "ours, aoti": FormKind(True, "aoti", True),
    "transformers": FormKind(False, EAGER, False),
    "transformers, cast": FormKind(False, EAGER, True),
    "transformers, compiled": FormKind(False, COMPILED, False),
    "transformers, openvino": FormKind(False, "openvino", True),
    "transformers, onnxruntime": FormKind(False, "onnxruntime", True),
}
THEIRS = "transformers"


def forms_for(backbone: str, dtype: torch.dtype, device: str) -> list[str]:
    """Forms that are compared by default: those that differ for the type (in float32 there is nothing to cast),
    transformers' in other libraries where these are installed, and none that is compiled; ours where transformers' is
    none."""
    can_be = (name for name, kind in FORMS.items() if kind.is_ours or backbone not in OURS_ALONE)
    return [name for name in can_be if _is_default(name, FORMS[name], dtype, device)]


def _is_default(name: str, kind: FormKind, dtype: torch.dtype, device: str) -> bool:
    if kind.runner in PACKAGES and kind.is_ours:
        return False
    if kind.runner in PACKAGES:
        return dtype == torch.float32 and device == "cpu" and not missing_packages(kind.runner)
    return kind.runner == EAGER and (dtype != torch.float32 or name not in ("ours, autocast", "transformers, cast"))


def check_form(name: str, backbone: str, dtype: torch.dtype, device: str):
    """
    Raises:
        ValueError: a form of transformers' model with a backbone that it does not take; or one in another library, and
            what it needs is not installed, or the type is not float32, or the device no CPU.
    """
    if backbone in OURS_ALONE and not FORMS[name].is_ours:
        raise ValueError(
            f"there is no {name!r} with {backbone}: transformers' Mask2Former takes no backbone whose maps have one "
            "stride; leave --form out, or give one of ours"
        )
    runner = FORMS[name].runner
    if runner not in PACKAGES:
        return
    if dtype != torch.float32 or device != "cpu":
        asked = f"{str(dtype).removeprefix('torch.')} on {device}"
        raise ValueError(f"{name!r} runs in float32 on a CPU, not in {asked}: use --dtype float32 --device cpu")
    if missing := missing_packages(runner):
        raise ValueError(f'{name!r} needs {" and ".join(missing)}, not installed here: pip install "m2f[bench]"')


def make_form(name: str, backbone: str, dtype: torch.dtype, device: str) -> Form:
    """A form of `FORMS` with random weights, the same in every form.

    In a type of 16 bits "ours" and "transformers, cast" keep their weights in it, as `from_pretrained(dtype=...)`
    loads them; "ours, autocast" and "transformers" are run under autocast.

    Raises:
        ValueError: from `check_form`.
    """
    check_form(name, backbone, dtype, device)
    kind = FORMS[name]
    model: Any = _our_model(backbone) if kind.is_ours else _their_model(backbone)
    model = model.to(device).eval().requires_grad_(False)
    autocast = None
    if dtype != torch.float32:
        if kind.casts_weights:
            model = model.to(dtype)
        else:
            autocast = dtype
    if kind.runner == COMPILED:
        model = torch.compile(model)
    elif kind.runner in PACKAGES:
        model = ExportedModel(model, kind.runner)
    return Form(model, autocast, dtype if kind.casts_weights else torch.float32)


def _config(backbone: str) -> Mask2FormerConfig:
    kind, fields, queries = BACKBONES[backbone]
    backbone_config = kind(**{**fields, "out_features": _STAGES})
    settings: dict[str, Any] = {"backbone_config": backbone_config, "num_queries": queries, "num_labels": NUM_CLASSES}
    return Mask2FormerConfig(**settings)


def _their_model(backbone: str) -> Mask2FormerForUniversalSegmentation:
    torch.manual_seed(0)
    return Mask2FormerForUniversalSegmentation(_config(backbone))


def _our_model(backbone: str) -> M2FForUniversalSegmentation:
    if backbone in OURS_ALONE:
        kind, fields, queries = BACKBONES[backbone]
        torch.manual_seed(0)
        settings: dict[str, Any] = {"num_queries": queries, "num_labels": NUM_CLASSES}
        config = M2FConfig(**{"backbone_config": kind(**fields), **settings})
        return M2FForUniversalSegmentation(config)
    theirs = _their_model(backbone)
    fields = {name: value for name, value in theirs.config.to_dict().items() if name != "model_type"}
    return M2FForUniversalSegmentation.from_pretrained(
        None, config=M2FConfig(**fields), state_dict=theirs.state_dict()
    )
