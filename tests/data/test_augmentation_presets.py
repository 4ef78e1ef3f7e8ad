"""The expected numbers are those of the original's configuration files (INPUT.*), written out."""

import numpy as np
import pytest
from labelled_samples import assert_consistent, make_sample

from m2f.data.augmentation import RandomFlip, RandomTranspose
from m2f.data.augmentation_presets import RECIPES, augmentation_preset
from m2f.data.color_jitter import SsdColorTransform
from m2f.data.random_resize_crop import (
    FixedSizeCrop,
    LargeScaleJitter,
    RandomCrop,
    RandomCropWithCategoryConstraint,
    ResizeAndCrop,
    ResizeShortestEdge,
)
from m2f.image_processing.resolution_presets import RESOLUTION_PRESETS

EDGES_512 = (256, 307, 358, 409, 460, 512, 563, 614, 665, 716, 768, 819, 870, 921, 972, 1024)


def test_every_resolution_preset_has_its_augmentation():
    assert set(RECIPES) == set(RESOLUTION_PRESETS) | {"fine-tune", "microscope"}


@pytest.mark.parametrize("name", ["coco-panoptic", "coco-instance"])
def test_coco(name):
    preset = augmentation_preset(name)
    jitter = ResizeAndCrop(LargeScaleJitter((1024, 1024), 0.1, 2.0), FixedSizeCrop((1024, 1024)))
    assert preset.augmentation.steps == (RandomFlip("horizontal", 0.5), jitter)
    assert preset.canvas == (1024, 1024)
    assert preset.processor_size == {"shortest_edge": 800, "longest_edge": 1333}


@pytest.mark.parametrize(
    ("name", "base", "longest", "crop", "canvas", "test_size"),
    [
        ("cityscapes-panoptic", 1024, 4096, (512, 1024), None, (1024, 2048)),
        ("cityscapes-instance", 1024, 4096, (512, 1024), None, (1024, 2048)),
        ("cityscapes-semantic", 1024, 4096, (512, 1024), None, (1024, 2048)),
        ("ade20k-panoptic", 640, 2560, (640, 640), (640, 640), (640, 2560)),
        ("ade20k-instance", 640, 2560, (640, 640), (640, 640), (640, 2560)),
        ("ade20k-semantic-640", 640, 2560, (640, 640), (640, 640), (640, 2560)),
        ("ade20k-semantic", 512, 2048, (512, 512), (512, 512), (512, 2048)),
        ("mapillary-vistas-panoptic", 2048, 8192, (1024, 1024), (1024, 1024), (2048, 2048)),
        ("mapillary-vistas-semantic", 2048, 8192, (1024, 1024), (1024, 1024), (2048, 2048)),
    ],
)
def test_others(name, base, longest, crop, canvas, test_size):
    preset = augmentation_preset(name)
    edges = tuple(int(x * 0.1 * base) for x in range(5, 21))  # as the configuration files have it
    assert base != 512 or edges == EDGES_512
    resize, window = ResizeShortestEdge(edges, longest), RandomCropWithCategoryConstraint(crop, 1.0)
    assert preset.augmentation.steps == (ResizeAndCrop(resize, window), SsdColorTransform(), RandomFlip())
    assert preset.canvas == canvas
    assert preset.processor_size == dict(zip(("shortest_edge", "longest_edge"), test_size, strict=True))


def test_fine_tune_and_other_sizes():
    preset = augmentation_preset("fine-tune")
    gentle = ResizeAndCrop(LargeScaleJitter((640, 640), 0.8, 1.25), RandomCrop((640, 640)))
    assert preset.augmentation.steps == (RandomFlip(), gentle)
    assert preset.processor_size == {"longest_edge": 640}
    small = augmentation_preset("coco-instance", size=256)
    assert small.augmentation.steps[1].resize == LargeScaleJitter((256, 256), 0.1, 2.0)
    assert small.augmentation.steps[1].crop == FixedSizeCrop((256, 256))
    assert small.canvas == (256, 256) and small.processor_size == {"longest_edge": 256}


def test_microscope():
    """Eight orientations, and the mildest jitter that still shows a quarter of an image."""
    preset = augmentation_preset("microscope", size=96)
    jitter = ResizeAndCrop(LargeScaleJitter((96, 96), 1.0, 2.0), RandomCrop((96, 96)))
    orientations = (RandomFlip("horizontal"), RandomFlip("vertical"), RandomTranspose())
    assert preset.augmentation.steps == (jitter, *orientations, SsdColorTransform(brightness=8))
    assert preset.canvas == (96, 96) and preset.processor_size == {"longest_edge": 96}
    assert augmentation_preset("microscope").processor_size == {"longest_edge": 256}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_samples_fit_the_canvas(name):
    preset, sample = augmentation_preset(name), make_sample(150, 200)
    for seed in range(2):
        after = preset.augmentation(sample, np.random.default_rng(seed))
        assert_consistent(after)
        if preset.canvas is not None:
            assert all(edge <= limit for edge, limit in zip(after.segments.size, preset.canvas, strict=True))


def test_unknown_name_and_size_that_does_not_fit():
    with pytest.raises(ValueError, match="unknown augmentation preset 'coco'; there are coco-panoptic, "):
        augmentation_preset("coco")
    with pytest.raises(ValueError, match="size=64 cannot be given for 'ade20k-semantic'; it can for coco-panoptic, "):
        augmentation_preset("ade20k-semantic", size=64)
    with pytest.raises(ValueError, match="each at least 1 pixel"):
        augmentation_preset("fine-tune", size=0)
