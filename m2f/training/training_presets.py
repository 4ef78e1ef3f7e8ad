"""Published recipes by name, a dataset, task and backbone such as "coco-instance-r50": the original's, and EoMT's for
DINOv3.

Source: the 47 image configurations of facebookresearch/Mask2Former (configs/<data set>/...: SOLVER, INPUT, TEST,
DATALOADER, MODEL) and its MODEL_ZOO.md. A preset names only what differs from the defaults of `TrainingOptions`.
"""

import difflib
from typing import Any

# What all of them share. Their AMP is fp16; bf16 needs no loss scaling, where the GPU has it.
_ALL = {"batch_size": 16, "mixed_precision": "fp16", "workers": 4, "evaluate_every": 5000, "checkpoint_every": 5000}
_COCO = {"max_steps": 368_750, "schedule": "multistep", "milestones": (327_778, 355_092)}
_COCO_LONG = {"max_steps": 737_500, "schedule": "multistep", "milestones": (655_556, 710_184)}
_MAPILLARY = {"max_steps": 300_000, "workers": 10, "evaluate_every": 0}

_DATASETS: dict[str, dict[str, Any]] = {
    "coco-panoptic": _COCO,
    "coco-instance": _COCO,
    "cityscapes-panoptic": {"max_steps": 90_000},
    "cityscapes-instance": {"max_steps": 90_000, "data_options": ("task=instance",)},
    "cityscapes-semantic": {"max_steps": 90_000, "data_options": ("task=semantic",)},
    "ade20k-panoptic": {"max_steps": 160_000},
    "ade20k-instance": {"max_steps": 160_000},
    "ade20k-semantic": {"max_steps": 160_000},
    "mapillary-vistas-panoptic": {**_MAPILLARY, "panoptic_threshold": 0.0},
    "mapillary-vistas-semantic": _MAPILLARY,
}

# The Hub's checkpoints of the same architectures, trained on ImageNet-1k, or 22k where the name says so. Departure:
# the original's ResNets start from torchvision's weights.
_SWIN: dict[str, Any] = {"drop_path_rate": 0.3}
_BACKBONES: dict[str, dict[str, Any]] = {
    "r50": {"backbone": "microsoft/resnet-50"},
    "r101": {"backbone": "microsoft/resnet-101"},
    "swin-t": {"backbone": "microsoft/swin-tiny-patch4-window7-224", **_SWIN},
    "swin-s": {"backbone": "microsoft/swin-small-patch4-window7-224", **_SWIN},
    "swin-b": {"backbone": "microsoft/swin-base-patch4-window12-384", **_SWIN},
    "swin-b-in21k": {"backbone": "microsoft/swin-base-patch4-window12-384-in22k", **_SWIN},
    "swin-l": {"backbone": "microsoft/swin-large-patch4-window12-384-in22k", **_SWIN},
}
_CITYSCAPES_BACKBONES = ("r50", "r101", "swin-t", "swin-s", "swin-b-in21k", "swin-l")
_TRAINED = {
    **dict.fromkeys(("coco-panoptic", "coco-instance", "ade20k-semantic"), tuple(_BACKBONES)),
    **dict.fromkeys((name for name in _DATASETS if name.startswith("cityscapes")), _CITYSCAPES_BACKBONES),
}
_FEW = ("r50", "swin-l")  # the backbones of all other datasets

# These choose how a new model starts; they mean nothing beside --model or --scratch.
START_FIELDS = ("backbone", "num_queries", "drop_path_rate", "frozen_batch_norm")
BACKBONE_RATES = ("backbone_lr_multiplier", "layer_decay")  # nor do these beside --freeze-backbone


def _preset(dataset: str, backbone: str) -> dict[str, Any]:
    options: dict[str, Any] = {**_ALL, **_DATASETS[dataset], **_BACKBONES[backbone], "augmentation": dataset}
    is_semantic = dataset.endswith("semantic")
    if backbone == "swin-l" and not is_semantic:
        options["num_queries"] = 200
    if backbone == "swin-l" and dataset.startswith("coco"):
        options.update(_COCO_LONG)
    if dataset == "ade20k-semantic" and backbone in ("swin-b", "swin-b-in21k", "swin-l"):
        options["augmentation"] = "ade20k-semantic-640"
    # SyncBN in the original's configurations; everywhere else its ResNets are frozen.
    if backbone in ("r50", "r101") and dataset.startswith("cityscapes"):
        options["frozen_batch_norm"] = False
    if backbone == "r101" and dataset == "ade20k-semantic":
        options["frozen_batch_norm"] = False
    return options


# Kerssies et al. 2025, tue-mps/eomt, configs/dinov3: of each data set the passes over it, and from the classes in
# training/ what these leave out: batches of 16, a weight decay of 0.05, a rate that falls by the power 0.9. Their
# network is another: a plain ViT without pixel decoder and Transformer decoder. Departures: one warm-up of 2000 steps
# for all, where theirs warms the ViT up after the head; masks stay in attention (--mask-annealing fades them out); and
# they have ViT-S and ViT-B for panoptic COCO alone.
_COCO_STEPS, _ADE20K_STEPS = 7391, 1263  # of a pass: 118,287 and 20,210 images
_DINOV3 = {"learning_rate": 2e-4, "warmup_steps": 2000, "layer_decay": 0.8}
_DINOV3_SIZES = {"s": 24, "b": 24, "l": 12}  # passes over COCO


def _dinov3_preset(dataset: str, size: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        **_ALL,
        **_DINOV3,
        "backbone": f"facebook/dinov3-vit{size}16-pretrain-lvd1689m",
        "augmentation": dataset,
    }
    if dataset == "ade20k-semantic":  # theirs has one rate for the whole ViT there, a tenth of the head's
        del options["layer_decay"]
        return {**options, "max_steps": 16 * _ADE20K_STEPS}
    return {**options, "max_steps": _DINOV3_SIZES[size] * _COCO_STEPS, "num_queries": 200, "crop_size": 640}


_ORIGINAL_PRESETS = {
    f"{dataset}-{backbone}": _preset(dataset, backbone)
    for dataset in _DATASETS
    for backbone in _TRAINED.get(dataset, _FEW)
}
_DINOV3_PRESETS = {
    f"{dataset}-dinov3-{size}": _dinov3_preset(dataset, size)
    for dataset in ("coco-panoptic", "coco-instance", "ade20k-semantic")
    for size in _DINOV3_SIZES
}
TRAINING_PRESETS = {**_ORIGINAL_PRESETS, **_DINOV3_PRESETS}


def training_preset(name: str) -> dict[str, Any]:
    """Fields of `TrainingOptions` of a recipe.

    Raises:
        ValueError: there is none of that name; the message gives the nearest ones.
    """
    if name not in TRAINING_PRESETS:
        near = difflib.get_close_matches(name, TRAINING_PRESETS, n=5, cutoff=0.4) or list(TRAINING_PRESETS)
        raise ValueError(f"unknown preset {name!r}; did you mean {', '.join(near)}?")
    return dict(TRAINING_PRESETS[name])
