"""Inputs are checked and padded."""

import pytest
import torch
from small_models import random_targets, small_model
from torch import nn


def test_reference_row_36_pixels_and_masks_of_any_size_are_padded_to_multiples_of_32():
    model = small_model("resnet")
    masks, classes = random_targets([(50, 70)], [2])
    pixels = torch.randn(1, 3, 50, 70)
    torch.manual_seed(0)
    outputs = model(pixels, mask_labels=masks, class_labels=classes)
    assert outputs.masks_queries_logits.shape[-2:] == (16, 24)
    assert outputs.valid_sizes.tolist() == [[50, 70]]
    torch.manual_seed(0)
    padded = nn.functional.pad(masks[0], (0, 26, 0, 14))
    by_hand = model(nn.functional.pad(pixels, (0, 26, 0, 14)), mask_labels=[padded], class_labels=classes)
    assert outputs.loss == by_hand.loss


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((3, 64, 64), ["(3, 64, 64)", "(batch, 3, height, width)"]),
        ((2, 3, 64), ["(2, 3, 64)"]),
        ((1, 4, 64, 64), ["(1, 4, 64, 64)"]),
        ((1, 3, 0, 64), ["(1, 3, 0, 64)"]),
    ],
)
def test_pixels_of_a_wrong_shape_are_named(shape, words):
    with pytest.raises(ValueError) as error:
        small_model("resnet")(torch.zeros(shape))
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_named(value):
    pixels = torch.zeros(3, 3, 64, 64)
    pixels[1, 0, 5, 5] = value
    with pytest.raises(ValueError, match=r"image \[1\]"):
        small_model("resnet")(pixels)


def test_pixel_masks_that_do_not_fit_are_named():
    model, pixels = small_model("resnet"), torch.zeros(2, 3, 64, 64)
    with pytest.raises(ValueError, match=r"\(2, 64, 32\).*\(2, 64, 64\)"):
        model(pixels, pixel_mask=torch.ones(2, 64, 32))
    shifted, holed, empty = torch.ones(3, 2, 64, 64)
    shifted[1, 0] = 0
    holed[1, 5, 5] = 0
    empty[1] = 0
    for mask in (shifted, holed, empty):
        with pytest.raises(ValueError, match=r"image \[1\].*top left"):
            model(pixels, pixel_mask=mask)
