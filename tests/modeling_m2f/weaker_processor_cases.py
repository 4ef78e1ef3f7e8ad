"""Whole models in each type, for processes that play a weaker processor: test_weaker_processor.py collects them."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_models import random_targets, small_model
from transformers import pipeline

from m2f.checkpoints.bundled_checkpoint import checkpoint_location
from m2f.cli import main
from m2f.inference.segmenter import Segmenter
from m2f.modeling_m2f.native_types import product_dtype

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NUCLEI = sorted((Path(__file__).parents[2] / "examples" / "nuclei" / "val").glob("*.png"))[0]


@pytest.fixture(scope="module", params=["swin", "resnet", "convnext"])
def model(request):
    return small_model(request.param)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A part of one tile's size."""
    path = tmp_path_factory.mktemp("image") / "nuclei.png"
    Image.open(NUCLEI).crop((0, 0, 160, 160)).save(path)
    return path


@pytest.fixture(scope="module")
def instances(image):
    """In the image above, in float32; the masks of the three types differ in a few pixels."""
    return len(Segmenter.from_pretrained()(image).segments)


def test_the_processor_is_a_weaker_one():
    assert torch.backends.cpu.get_cpu_capability() == os.environ["ATEN_CPU_CAPABILITY"].upper()
    assert not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert [product_dtype(dtype) for dtype in DTYPES] == [torch.float32] * 3


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_predictions_and_a_training_step_are_those_of_float32(model, dtype):
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)).to(dtype)
    masks, classes = random_targets([(64, 96)] * 2, [2, 3])
    found = []
    for kind in (dtype, torch.float32):
        model.to(kind).train()
        torch.manual_seed(0)  # of the points
        outputs = model(pixels.to(kind), mask_labels=masks, class_labels=classes)
        outputs.loss.backward()
        gradients = [parameter.grad.float().norm() for parameter in model.parameters() if parameter.grad is not None]
        assert len(gradients) > 50 and torch.stack(gradients).isfinite().all()
        found.append((outputs.class_queries_logits.float(), outputs.encoder_last_hidden_state.float(), outputs.loss))
        model.zero_grad(set_to_none=True)
    for x, expected in zip(*found, strict=True):
        assert (x - expected).norm() < 0.15 * expected.norm()


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_instances_are_found(dtype, image, instances):
    assert instances > 5
    found = len(Segmenter.from_pretrained(dtype=str(dtype).removeprefix("torch."))(image).segments)
    assert abs(found - instances) <= 0.1 * instances


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_pipeline_finds_segments(dtype, image, instances):
    segmenter = pipeline("image-segmentation", model=checkpoint_location("nuclei"), dtype=dtype)
    assert len(segmenter(str(image), subtask="instance", threshold=0.5)) > instances / 2


def test_the_command_predicts_in_bfloat16(image, tmp_path):
    assert main(["predict", str(image), "--output", str(tmp_path), "--dtype", "bfloat16"]) == 0
