"""Dropout, types and reference points of the pixel decoder."""

import torch
from small_models import random_targets, small_model
from torch import nn

from m2f.modeling_m2f.pixel_decoder import reference_points


def test_reference_row_27_dropout_acts_in_the_pixel_decoder_alone():
    """In transformers it also drops whole decoder layers, and crashes when it does."""
    model = small_model("resnet", dropout=0.9).train()
    for module in model.model.transformer_module.modules():
        assert not isinstance(module, nn.Dropout) and not getattr(module, "dropout", 0)
    masks, classes = random_targets([(64, 64)], [2])
    for _ in range(6):
        model(torch.randn(1, 3, 64, 64), mask_labels=masks, class_labels=classes).loss.backward()
    pixels = torch.randn(1, 3, 64, 64)
    features = [model.model.pixel_level_module(pixels, None).mask_features for _ in range(2)]
    assert not torch.equal(*features)


@torch.no_grad()
def test_reference_row_23_the_pixel_decoder_runs_in_float32_under_autocast():
    model = small_model("swin")
    seen = {}
    decoder = model.model.pixel_level_module.decoder
    decoder.encoder.layers[0].fc1.register_forward_hook(lambda module, args, out: seen.update(decoder=out.dtype))
    model.class_predictor.register_forward_hook(lambda module, args, out: seen.update(classifier=out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(torch.randn(1, 3, 64, 96))
    assert seen == {"decoder": torch.float32, "classifier": torch.bfloat16}
    assert outputs.pixel_decoder_last_hidden_state.dtype == torch.float32


def test_reference_points_are_cell_centres_on_every_level():
    points = reference_points([(1, 2), (2, 4)], torch.device("cpu"))
    assert points.shape == (1, 10, 2, 2)
    assert points[0, 1].tolist() == [[0.75, 0.5]] * 2 and points[0, 2 + 5].tolist() == [[0.375, 0.75]] * 2
