"""Expected values are those of the original's configuration files (configs/*/*/*.yaml) and MODEL_ZOO.md, typed here
independently of the table that is tested."""

import pytest

from m2f.data.augmentation_presets import augmentation_preset
from m2f.training.option_values import resolve_options
from m2f.training.training_presets import TRAINING_PRESETS, training_preset

COCO = ("multistep", 368_750, (327_778, 355_092))
COCO_SWIN_L = ("multistep", 737_500, (655_556, 710_184))
# dataset-task -> schedule, steps, milestones, EVAL_PERIOD, NUM_WORKERS
RECIPES = {
    "coco-panoptic": (*COCO, 5000, 4),
    "coco-instance": (*COCO, 5000, 4),
    "cityscapes-panoptic": ("poly", 90_000, (), 5000, 4),
    "cityscapes-instance": ("poly", 90_000, (), 5000, 4),
    "cityscapes-semantic": ("poly", 90_000, (), 5000, 4),
    "ade20k-panoptic": ("poly", 160_000, (), 5000, 4),
    "ade20k-instance": ("poly", 160_000, (), 5000, 4),
    "ade20k-semantic": ("poly", 160_000, (), 5000, 4),
    "mapillary-vistas-panoptic": ("poly", 300_000, (), 0, 10),
    "mapillary-vistas-semantic": ("poly", 300_000, (), 0, 10),
}
CITYSCAPES = "r50 r101 swin-t swin-s swin-b-in21k swin-l"
ALL = "r50 r101 swin-t swin-s swin-b swin-b-in21k swin-l"
TRAINED = {
    **dict.fromkeys(("coco-panoptic", "coco-instance", "ade20k-semantic"), ALL),
    **dict.fromkeys(("cityscapes-panoptic", "cityscapes-instance", "cityscapes-semantic"), CITYSCAPES),
    **dict.fromkeys(("ade20k-panoptic", "ade20k-instance"), "r50 swin-l"),
    **dict.fromkeys(("mapillary-vistas-panoptic", "mapillary-vistas-semantic"), "r50 swin-l"),
}
NAMES = [(dataset, backbone) for dataset, backbones in TRAINED.items() for backbone in backbones.split()]


def test_there_is_one_for_each_image_configuration_of_the_original():
    assert len(NAMES) == 47
    others = [name for name in TRAINING_PRESETS if "-dinov3-" not in name]
    assert sorted(others) == sorted(f"{dataset}-{backbone}" for dataset, backbone in NAMES)


# Of tue-mps/eomt, configs/dinov3/: epochs times 7391 and 1263 steps of 16 images, num_q, lr, llrd (0.8 where a file
# leaves it out; 1.0 and lr_mult 0.1 for ADE20K).
DINOV3 = {
    "coco-panoptic-dinov3-s": (24 * 7391, 200, 0.8, 1.0),
    "coco-panoptic-dinov3-b": (24 * 7391, 200, 0.8, 1.0),
    "coco-panoptic-dinov3-l": (12 * 7391, 200, 0.8, 1.0),
    "coco-instance-dinov3-l": (12 * 7391, 200, 0.8, 1.0),
    "ade20k-semantic-dinov3-l": (16 * 1263, None, None, 0.1),
}


@pytest.mark.parametrize("name", DINOV3)
def test_recipe_of_eomt_for_dinov3(name):
    options = resolve_options({"preset": name})
    assert options.backbone == f"facebook/dinov3-vit{name[-1]}16-pretrain-lvd1689m"
    assert options.warmup_steps == 2000
    found = (options.max_steps, options.num_queries, options.layer_decay, options.backbone_rate)
    assert found == DINOV3[name]
    assert (options.batch_size, options.learning_rate, options.weight_decay, options.power) == (16, 2e-4, 0.05, 0.9)
    frozen = resolve_options({"preset": name, "freeze_backbone": True})
    assert frozen.freeze_backbone and frozen.layer_decay is None
    edge = 512 if "ade20k" in name else 640
    assert augmentation_preset(options.augmentation, options.crop_size).canvas == (edge, edge)


@pytest.mark.parametrize(("dataset", "backbone"), NAMES)
def test_recipe(dataset, backbone):
    options = resolve_options({"preset": f"{dataset}-{backbone}"})
    schedule, steps, milestones, evaluate_every, workers = RECIPES[dataset]
    if dataset.startswith("coco") and backbone == "swin-l":
        schedule, steps, milestones = COCO_SWIN_L
    assert (options.schedule, options.max_steps, options.milestones) == (schedule, steps, milestones)
    assert (options.evaluate_every, options.workers) == (evaluate_every, workers)
    # The constants of all configurations.
    assert (options.batch_size, options.learning_rate, options.weight_decay) == (16, 1e-4, 0.05)
    assert (options.backbone_rate, options.clip_norm, options.power) == (0.1, 0.01, 0.9)
    assert (options.gamma, options.mixed_precision) == (0.1, "fp16")
    assert not options.scale_learning_rate
    # WARMUP_FACTOR is 1.0, so their warm-up does nothing.
    assert options.warmup_steps == 0 or options.warmup_factor == 1.0


@pytest.mark.parametrize(("dataset", "backbone"), NAMES)
def test_model(dataset, backbone):
    options = resolve_options({"preset": f"{dataset}-{backbone}"})
    is_swin = backbone.startswith("swin")
    assert options.drop_path_rate == (0.3 if is_swin else None)
    # 200 queries for Swin-L but in semantic configurations, 100 for all others.
    assert options.num_queries == (200 if backbone == "swin-l" and "semantic" not in dataset else None)
    # SyncBN for Cityscapes' ResNets and ADE20K's semantic R101.
    shares_statistics = not is_swin and ("cityscapes" in dataset or (dataset, backbone) == ("ade20k-semantic", "r101"))
    assert options.frozen_batch_norm == (False if shares_statistics else None)
    # OBJECT_MASK_THRESHOLD is 0.0 for Mapillary, 0.8 for all others.
    assert options.panoptic_threshold == (0.0 if dataset == "mapillary-vistas-panoptic" else None)


@pytest.mark.parametrize(("dataset", "backbone"), NAMES)
def test_images(dataset, backbone):
    """The crop, and MIN_SIZE_TEST and MAX_SIZE_TEST."""
    options = resolve_options({"preset": f"{dataset}-{backbone}"})
    preset = augmentation_preset(options.augmentation)
    large = backbone in ("swin-b", "swin-b-in21k", "swin-l")
    edge, longest, canvas = {
        "coco-panoptic": (800, 1333, (1024, 1024)),
        "coco-instance": (800, 1333, (1024, 1024)),
        "ade20k-panoptic": (640, 2560, (640, 640)),
        "ade20k-instance": (640, 2560, (640, 640)),
        "ade20k-semantic": (640, 2560, (640, 640)) if large else (512, 2048, (512, 512)),
        "mapillary-vistas-panoptic": (2048, 2048, (1024, 1024)),
        "mapillary-vistas-semantic": (2048, 2048, (1024, 1024)),
    }.get(dataset, (1024, 2048, None))
    assert preset.processor_size == {"shortest_edge": edge, "longest_edge": longest}
    assert preset.canvas == canvas


def test_cityscapes_is_read_for_the_presets_task():
    for task in ("instance", "semantic"):
        assert training_preset(f"cityscapes-{task}-r50")["data_options"] == (f"task={task}",)


def test_a_preset_names_only_what_differs_from_the_defaults():
    from m2f.training.training_options import TrainingOptions

    defaults = vars(TrainingOptions())
    for name, fields in TRAINING_PRESETS.items():
        assert not [field for field, value in fields.items() if defaults[field] == value], name
