"""Small configurations of the backbones that `M2FConfig` takes, and the rows of docs/backbones.md."""

from typing import Any, NamedTuple

TESTED_WITH = "transformers 5.23.0"


class BackboneCase(NamedTuple):
    """`fields` of a small `backbone_config`; `maps`: what the table says of its feature maps; `note`: what does not go
    or is to be known; `size`: of the only inputs that it takes."""

    fields: dict[str, Any]
    maps: str = "strides 4 to 32"
    note: str = ""
    size: tuple[int, int] | None = None


_FOUR = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
_WINDOWS = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
_VIT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
_NARROW = {**_VIT, "intermediate_size": 64}
_PATCH_14 = "patches of 14, feature pyramid"
_PATCH_16 = "patches of 16, feature pyramid"

CASES = {
    "swin": BackboneCase(_WINDOWS, note="faster layers of ours; absolute position embeddings: one input size"),
    "resnet": BackboneCase({**_FOUR, "layer_type": "basic", "embedding_size": 8}),
    "convnext": BackboneCase(_FOUR),
    "convnextv2": BackboneCase(_FOUR),
    "dinov3_convnext": BackboneCase(_FOUR),
    "swinv2": BackboneCase({**_WINDOWS, "window_size": 4}),
    "focalnet": BackboneCase(
        {"embed_dim": 16, "hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1]},
        note="stride 4 is the stem's: its stages end after downsampling; `hidden_sizes` is a list",
    ),
    "hgnet_v2": BackboneCase(
        {
            "stem_channels": [3, 8, 8],
            "stage_in_channels": [8, 16, 24, 32],
            "stage_mid_channels": [8, 8, 8, 8],
            "stage_out_channels": [16, 24, 32, 48],
            "stage_num_blocks": [1, 1, 1, 1],
            "stage_numb_of_layers": [1, 1, 1, 1],
        },
        note="the channels are those of the maps; its `channels` may say others",
    ),
    "pvt_v2": BackboneCase({**_FOUR, "num_attention_heads": [1, 1, 2, 2], "mlp_ratios": [2, 2, 2, 2]}),
    "pp_lcnet": BackboneCase({"scale": 0.25}, note="no first stage: `stage2` has stride 4"),
    "maskformer-swin": BackboneCase(_WINDOWS, note="`swin` is the same network and faster"),
    "bit": BackboneCase({**_FOUR, "embedding_size": 8, "num_groups": 2}),
    "rt_detr_resnet": BackboneCase({**_FOUR, "layer_type": "basic", "embedding_size": 8}),
    "textnet": BackboneCase({"hidden_sizes": [8, 8, 16, 24, 32], "stem_out_channels": 8}),
    "hiera": BackboneCase(
        {**_WINDOWS, "image_size": [64, 64]},
        note="inputs of `image_size` alone, a multiple of 32: positions are not interpolated",
        size=(64, 64),
    ),
    "timm_backbone": BackboneCase(
        {"backbone": "test_resnet"},
        note="tested with timm 1.0.31, which itself imports torchvision; no pretrained weights",
    ),
    "dinov2": BackboneCase({**_VIT, "image_size": 56, "patch_size": 14}, _PATCH_14),
    "dinov2_with_registers": BackboneCase({**_VIT, "image_size": 56, "patch_size": 14}, _PATCH_14),
    "tipsv2_vision_model": BackboneCase({**_NARROW, "image_size": 56}, _PATCH_14),
    "dinov3_vit": BackboneCase({**_NARROW, "num_register_tokens": 2, "image_size": 64}, _PATCH_16),
    "vitdet": BackboneCase(
        {
            **_VIT,
            "image_size": 64,
            "window_size": 2,
            "window_block_indices": [0],
            "use_relative_position_embeddings": True,
        },
        _PATCH_16,
        note="window attention in the blocks that `window_block_indices` names",
    ),
    "beit": BackboneCase(
        {**_NARROW, "image_size": 64, "use_relative_position_bias": True, "out_indices": [1, 2, 3, 4]},
        _PATCH_16,
        note="`add_fpn=True` gives four strides by a pyramid of its own",
    ),
    "pixio": BackboneCase({**_VIT, "image_size": 64}, _PATCH_16),
    "sapiens2": BackboneCase({**_NARROW, "image_size": [64, 64]}, _PATCH_16),
}

# The others that AutoBackbone knows, and why they do not go.
REFUSED = {
    "dinat": "needs natten, which PyPI has as source alone, to be compiled; not tried",
    "lw_detr_vit": "made for its detector: cuts the whole map into a fixed number of windows, which has to divide it",
    "pp_lcnet_v3": "not tested: some of its parameters get no gradient",
    "pp_lcnet_v4": "made for lines of text: only the height is divided",
    "rf_detr_dinov2": "made for its detector: fails on inputs that are not square",
    "tipsv2": "a model of images and texts; its backbone is `tipsv2_vision_model`",
    "uvdoc_backbone": "made for document images: all its maps have stride 16",
    "vitpose_backbone": "gives tokens instead of maps, for one input size",
}


def backbone_fields(name: str) -> dict[str, Any]:
    return {"model_type": name, **CASES[name].fields}


def table() -> list[str]:
    """The lines of the table in docs/backbones.md."""
    lines = ["| `model_type` | maps | notes |", "|---|---|---|"]
    lines += [f"| `{name}` | {case.maps} | {case.note} |" for name, case in CASES.items()]
    return [line.replace("|  |", "| |") for line in lines]


def refused_table() -> list[str]:
    return ["| `model_type` | why not |", "|---|---|", *(f"| `{name}` | {why} |" for name, why in REFUSED.items())]
