"""`torch.compile` of the whole model: one graph, and eager's numbers."""

import os

import numpy as np
import pytest
import torch
from criterion_cases import overlapping_maps, padded
from small_models import corner_mask, small_model
from torch._dynamo.testing import CompileCounter

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")
SIZES = [(64, 96), (40, 70), (64, 50)]


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def model_of(backbone: str):
    """Without anything random: a compiler draws other numbers."""
    model = small_model(backbone, encoder_layers=1, decoder_layers=2, dropout=0.0)
    for module in model.modules():
        if type(module).__name__ == "SwinDropPath":
            module.drop_prob = 0.0
    return model


def labelled_batch():
    ids, _, classes = overlapping_maps()
    batch = {"mask_labels": ids, "class_labels": padded(classes, -100)}
    return {"pixel_values": torch.randn(2, 3, 64, 96), "pixel_mask": corner_mask((64, 96), SIZES[:2]), **batch}


def step(model, network, batch):
    """Loss, terms and gradients of a training step at the same points, of the model or of what is made of it."""
    model.zero_grad()
    torch.manual_seed(0)
    outputs = network(**batch)
    outputs.loss.backward()
    return outputs.loss.detach(), outputs.loss_dict, {name: p.grad.clone() for name, p in model.named_parameters()}


@torch.no_grad()
def test_inference_with_a_mask_is_one_graph_for_every_batch():
    """Without a mask, for one batch: `test_compiled_and_exported_models_compute_the_same`."""
    model = model_of("resnet")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for batch in (2, 3):
        inputs = {
            "pixel_values": torch.randn(batch, 3, 64, 96),
            "pixel_mask": corner_mask((64, 96), SIZES[:batch]),
        }
        for x in inputs.values():  # an error where the graph is for one batch alone
            torch._dynamo.mark_dynamic(x, 0)
        found, expected = compiled(**inputs), model(**inputs)
        for name in ("class_queries_logits", "masks_queries_logits"):
            torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4)


_LONG = pytest.mark.skipif("M2F_LONG_TESTS" not in os.environ, reason="takes minutes; M2F_LONG_TESTS=1 runs it")


@pytest.mark.parametrize(
    ("backbone", "backend"), [("resnet", "aot_eager"), pytest.param("swin", "inductor", marks=_LONG)]
)
def test_a_training_step_is_one_graph_with_eagers_loss_and_gradients(backbone, backend):
    model, batch = model_of(backbone).train(), labelled_batch()
    found = step(model, torch.compile(model, fullgraph=True, backend=backend), batch)
    expected = step(model, model, batch)
    torch.testing.assert_close(found[:2], expected[:2], atol=1e-4, rtol=1e-4)
    for name, gradient in expected[2].items():
        torch.testing.assert_close(found[2][name], gradient, atol=1e-4, rtol=1e-3, msg=name)


@_LONG
def test_labels_as_arrays_break_the_graph_and_give_the_same_loss():
    model, batch = model_of("resnet").train(), labelled_batch()
    arrays = batch | {"class_labels": [np.array([1, 3, 1]), np.array([4])]}
    counter = CompileCounter()
    found, expected = step(model, torch.compile(model, backend=counter), arrays), step(model, model, batch)
    assert counter.frame_count > 1
    torch.testing.assert_close(found[:2], expected[:2], atol=1e-4, rtol=1e-4)
