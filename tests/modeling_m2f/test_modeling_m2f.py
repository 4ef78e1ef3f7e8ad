import logging

import pytest
import torch
from small_models import BACKBONES, corner_mask, random_targets, small_model
from torch import nn


@pytest.mark.parametrize("backbone", BACKBONES)
def test_reference_row_34_every_trainable_parameter_gets_a_gradient(backbone):
    """transformers' Swin has two that never do, so distributed training waits for them. Without targets too: a process
    whose images are all empty must not hang the others."""
    for counts in ([2, 0], [0, 0]):
        model = small_model(backbone).train()
        masks, classes = random_targets([(64, 96)] * 2, counts)
        loss = model(torch.randn(2, 3, 64, 96), mask_labels=masks, class_labels=classes).loss
        assert loss.isfinite()
        loss.backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_reference_row_28_without_auxiliary_loss_three_terms_remain():
    model = small_model("resnet", use_auxiliary_loss=False)
    pixels = torch.randn(1, 3, 64, 64)
    assert model(pixels).loss is None
    masks, classes = random_targets([(64, 64)], [2])
    for more in ({}, {"output_hidden_states": True}, {"output_auxiliary_logits": True}):
        outputs = model(pixels, mask_labels=masks, class_labels=classes, **more)
        assert set(outputs.loss_dict) == {"loss_ce", "loss_mask", "loss_dice"}


def test_reference_row_29_a_tuple_with_labels_starts_with_the_loss():
    model = small_model("resnet")
    masks, classes = random_targets([(64, 64)], [2])
    pixels = torch.randn(1, 3, 64, 64)
    outputs = model(pixels, mask_labels=masks, class_labels=classes, return_dict=False)
    assert isinstance(outputs, tuple) and outputs[0].dim() == 0 and isinstance(outputs[1], dict)
    expected = model(pixels)
    assert torch.equal(outputs[2], expected.class_queries_logits)
    assert torch.equal(model(pixels, return_dict=False)[1], expected.masks_queries_logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.uint8, torch.float32, torch.bfloat16])
def test_reference_row_30_half_precision_models_train_with_every_kind_of_mask(dtype, mask_dtype):
    model = small_model("resnet").to(dtype).train()
    masks, classes = random_targets([(64, 64)] * 2, [3, 1])
    masks = [image.to(mask_dtype) for image in masks]
    outputs = model(torch.randn(2, 3, 64, 64, dtype=dtype), mask_labels=masks, class_labels=classes)
    assert outputs.loss.dtype == torch.float32 and outputs.loss.isfinite()
    outputs.loss.backward()


def test_lists_and_padded_tensors_of_labels_give_the_same_loss():
    model, pixels = small_model("resnet"), torch.randn(2, 3, 64, 64)
    masks, classes = random_targets([(64, 64)] * 2, [3, 1])
    padded_masks = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True, padding_value=7)
    padded_classes = torch.nn.utils.rnn.pad_sequence(classes, batch_first=True, padding_value=-100)
    losses = []
    for labels in ((masks, classes), (padded_masks, padded_classes), ([m.bool() for m in masks], classes)):
        torch.manual_seed(0)
        losses.append(model(pixels, mask_labels=labels[0], class_labels=labels[1]).loss)
    assert losses[0] == losses[1] == losses[2]


@torch.no_grad()
def test_reference_row_31_positions_and_locations_stay_in_float32():
    """Rounded to bfloat16, reference points of the 1/8 level are off by up to a pixel at 1024 x 2048."""
    seen = {}

    def record(module, args):
        seen["points"], seen["queries"] = args[2], args[0]

    model = small_model("resnet").to(torch.bfloat16)
    layer = model.model.pixel_level_module.decoder.encoder.layers[0]
    layer.self_attn.register_forward_pre_hook(record)
    layer.register_forward_pre_hook(lambda module, args: seen.update(hidden=args[0], position=args[1]))
    model(torch.randn(1, 3, 64, 96, dtype=torch.bfloat16))
    assert seen["points"].dtype == seen["position"].dtype == torch.float32
    # Rounded once, after the sum.
    assert torch.equal(seen["queries"], (seen["hidden"].float() + seen["position"]).bfloat16())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 2])
def test_reference_row_32_half_precision_on_a_cpu_gives_numbers(dtype, batch):
    """transformers returns NaN at batch 1: PyTorch's grid_sample reads out of bounds for strided half tensors."""
    model = small_model("swin")
    pixels = torch.randn(batch, 3, 64, 96)
    expected = model(pixels).masks_queries_logits
    actual = model.to(dtype)(pixels.to(dtype)).masks_queries_logits
    assert actual.dtype == dtype and actual.isfinite().all()
    # Only that it is the same picture; how close half precision comes depends on masks flipping in attention.
    correlation = torch.corrcoef(torch.stack([actual.float().flatten(), expected.flatten()]))[0, 1]
    assert correlation > 0.95, correlation


def test_reference_row_23_losses_are_taken_in_float32_under_autocast():
    model = small_model("resnet")
    masks, classes = random_targets([(64, 64)], [2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(torch.randn(1, 3, 64, 64), mask_labels=masks, class_labels=classes)
    assert {term.dtype for term in outputs.loss_dict.values()} == {torch.float32}


@pytest.mark.parametrize("backbone", ["swin", "resnet"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_reference_row_35_checkpointing_changes_no_gradient(backbone, reentrant):
    model = small_model(backbone).train()
    for module in model.modules():
        if type(module).__name__ == "SwinDropPath":
            module.drop_prob = 0.0
    masks, classes = random_targets([(64, 64)] * 2, [2, 3])
    pixels = torch.randn(2, 3, 64, 64, requires_grad=True)

    def gradients():
        model.zero_grad()
        torch.manual_seed(0)
        model(pixels, mask_labels=masks, class_labels=classes).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    expected = gradients()
    calls = []
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    layer = model.model.transformer_module.decoder.layers[0].fc1
    layer.register_forward_hook(lambda *args: calls.append(1))
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4, msg=name)
    assert len(calls) == 2  # forward, and again in backward


def test_reference_row_36_masks_of_the_valid_size_are_padded_like_the_pixels():
    """transformers scales masks of another size to the canvas: shifted targets, in silence."""
    model = small_model("resnet")
    pixels, sizes = torch.randn(2, 3, 64, 96), [(50, 90), (64, 70)]
    masks, classes = random_targets(sizes, [2, 3])
    mask = corner_mask((64, 96), sizes)
    padded = [nn.functional.pad(m, (0, 96 - m.shape[-1], 0, 64 - m.shape[-2])) for m in masks]
    losses = []
    for labels in (masks, padded):
        torch.manual_seed(0)
        losses.append(model(pixels, pixel_mask=mask, mask_labels=labels, class_labels=classes).loss)
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match=r"Image 1.*\(60, 70\).*\(64, 96\).*\(64, 70\)"):
        model(pixels, pixel_mask=mask, mask_labels=[masks[0], masks[1][:, :60]], class_labels=classes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m, c: (m, [c[0], c[1] + 5]), ["Image 1", "outside 0..4", "num_labels=5"]),
        (lambda m, c: (m, [c[0] - 5, c[1]]), ["Image 0", "outside 0..4"]),
        (lambda m, c: (m, [c[0][:1], c[1]]), ["Image 0", "(2, 64, 64)", "(1,)"]),
        (lambda m, c: ([m[0], m[1][0]], c), ["Image 1", "(64, 64)"]),
        (lambda m, c: (m[:1], c), ["2 images", "1 mask_labels"]),
        (lambda m, c: (m, [c[0].float(), c[1]]), ["Image 0", "torch.float32", "integers"]),
        (lambda m, c: (m, None), ["class_labels is missing"]),
        (lambda m, c: (None, c), ["mask_labels is missing"]),
    ],
)
def test_labels_that_do_not_fit_are_named(change, words):
    masks, classes = change(*random_targets([(64, 64)] * 2, [2, 1]))
    with pytest.raises(ValueError) as error:
        small_model("resnet")(torch.zeros(2, 3, 64, 64), mask_labels=masks, class_labels=classes)
    assert all(word in str(error.value) for word in words), error.value


def test_more_targets_than_queries_warn_once_and_match_the_best(caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    model = small_model("resnet")
    masks, classes = random_targets([(64, 64)], [12])
    for _ in range(2):
        outputs = model(torch.randn(1, 3, 64, 64), mask_labels=masks, class_labels=classes)
    logger.removeHandler(caplog.handler)
    assert outputs.loss.isfinite()
    warnings = [record.getMessage() for record in caplog.records if "12 targets" in record.getMessage()]
    assert len(warnings) == 1 and "8 queries" in warnings[0]


@torch.no_grad()
def test_compiled_and_exported_models_compute_the_same():
    model, pixels = small_model("resnet"), torch.randn(1, 3, 64, 96)
    expected = model(pixels).masks_queries_logits
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(pixels).masks_queries_logits
    torch.testing.assert_close(compiled, expected, atol=1e-5, rtol=1e-4)
    exported = torch.export.export(model, (pixels,)).module()(pixels).masks_queries_logits
    torch.testing.assert_close(exported, expected, atol=1e-5, rtol=1e-4)
