"""Accelerate's offloading and dispatch, on a machine that has nothing but a CPU and a disk.

Expected: the outputs of the same model as it was.
"""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model, init_empty_weights, load_checkpoint_and_dispatch
from small_models import BACKBONES, corner_mask, random_targets, small_config, small_model
from torch import Tensor

from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.modeling_m2f.valid_region import ValidRegion

CPU = torch.device("cpu")
PARTS = {
    "model.pixel_level_module.encoder": "cpu",
    "model.pixel_level_module.decoder": "disk",
    "model.transformer_module": "disk",
    "class_predictor": "cpu",
    "criterion": "cpu",
}


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    return {"pixel_values": pixels, "pixel_mask": corner_mask((64, 96), [(64, 96), (50, 60)])}


@torch.no_grad()
def assert_same_outputs(model, expected, inputs):
    assert model.model.transformer_module.level_embed.weight.is_meta
    found = model(**inputs)
    for name in ("class_queries_logits", "masks_queries_logits"):
        torch.testing.assert_close(found[name], expected(**inputs)[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_weights_that_are_elsewhere_between_calls(backbone, inputs, tmp_path):
    expected = small_model(backbone)
    model = copy.deepcopy(expected)
    cpu_offload(model, CPU, offload_buffers=True)
    assert_same_outputs(model, expected, inputs)
    masks, classes = random_targets([(64, 96), (50, 60)], [2, 1])
    assert model(**inputs, mask_labels=masks, class_labels=classes).loss.isfinite()
    model = copy.deepcopy(expected)
    disk_offload(model, str(tmp_path / "whole"), CPU, offload_buffers=True)
    assert_same_outputs(model, expected, inputs)
    model = dispatch_model(copy.deepcopy(expected), PARTS, main_device="cpu", offload_dir=str(tmp_path / "parts"))
    assert_same_outputs(model, expected, inputs)


@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_checkpoints_load_in_parts(backbone, inputs, tmp_path):
    expected = small_model(backbone)
    expected.save_pretrained(tmp_path)
    load = M2FForUniversalSegmentation.from_pretrained
    model = load(tmp_path, device_map=PARTS, offload_folder=tmp_path / "folder").eval()
    assert_same_outputs(model, expected, inputs)
    whole = load(tmp_path, device_map="auto").eval()
    assert torch.equal(whole(**inputs).masks_queries_logits, expected(**inputs).masks_queries_logits)


def test_a_model_made_without_weights_loads_in_parts(inputs, tmp_path):
    """Not with Swin, whose names in files are others, which transformers alone translates."""
    expected = small_model("resnet")
    expected.save_pretrained(tmp_path)
    with init_empty_weights():
        empty = M2FForUniversalSegmentation(small_config("resnet")).eval()
    model = load_checkpoint_and_dispatch(empty, tmp_path, device_map=PARTS, offload_folder=tmp_path / "parts")
    assert_same_outputs(model, expected, inputs)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_stays_on_one_device_is_in_the_model(backbone):
    """Accelerate's FSDP raises for a name without a module."""
    model = small_model(backbone)
    kinds = {type(module).__name__ for module in model.modules()}
    stage = {"swin": "LeanSwinStage", "resnet": "ResNetStage", "convnext": "ConvNextStage"}[backbone]
    assert {stage, "PixelDecoder", "TransformerModule"} <= model._no_split_modules <= kinds
    assert model.model._no_split_modules == model._no_split_modules


def test_sizes_of_images_follow_a_module_to_its_device():
    """Accelerate moves what has `to`."""
    assert ValidRegion(torch.tensor([[3, 4]]), (32, 32)).to("meta", non_blocking=True).sizes.is_meta
