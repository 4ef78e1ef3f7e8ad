"""Predictions and losses of the original, reproduced."""

import gzip
import json

import pytest
import torch
from golden_models import GOLDEN, golden_model, golden_pixels, load_golden

# The limits: mini models within 1e-4, full-size models within 1e-3 of the original's logits.
MINI_TOLERANCE, FULL_TOLERANCE = 1e-4, 1e-3


def close(actual: torch.Tensor, expected, tolerance: float):
    difference = (actual - torch.from_numpy(expected)).abs().max().item()
    assert difference <= tolerance, difference


@pytest.fixture(scope="module", params=["mini_r18", "mini_swin"])
def mini(request):
    golden, meta = load_golden(request.param)
    return golden, meta, golden_model(request.param, meta["state_dict"])


@torch.no_grad()
def test_mini_models_make_all_predictions_of_the_original(mini):
    golden, meta, model = mini
    outputs = model(golden_pixels(golden, meta), output_auxiliary_logits=True)
    close(outputs.class_queries_logits[0], golden["pred_logits"], MINI_TOLERANCE)
    close(outputs.masks_queries_logits[0], golden["pred_masks"], MINI_TOLERANCE)
    assert len(outputs.auxiliary_logits) == 6
    for i, prediction in enumerate(outputs.auxiliary_logits):
        close(prediction["class_queries_logits"][0], golden[f"aux{i}_pred_logits"], MINI_TOLERANCE)
        close(prediction["masks_queries_logits"][0, :, ::4, ::4], golden[f"aux{i}_pred_masks"], MINI_TOLERANCE)


@torch.no_grad()
def test_unpadded_pixels_are_padded_as_in_the_original(mini):
    golden, meta, model = mini
    height, width = golden["image"].shape[:2]
    outputs = model(golden_pixels(golden, meta)[..., :height, :width])
    close(outputs.masks_queries_logits[0], golden["pred_masks"], MINI_TOLERANCE)
    assert outputs.valid_sizes.tolist() == [[height, width]]


@torch.no_grad()
def test_mask_padding_false_sees_padding_as_the_original(mini):
    golden, meta, model = mini
    pixels = golden_pixels(golden, meta)
    height, width = golden["image"].shape[:2]
    pixel_mask = torch.zeros(1, *pixels.shape[-2:], dtype=torch.int64)
    pixel_mask[:, :height, :width] = 1
    model.config.mask_padding = False
    try:
        outputs = model(pixels, pixel_mask=pixel_mask)
    finally:
        model.config.mask_padding = True
    close(outputs.masks_queries_logits[0], golden["pred_masks"], MINI_TOLERANCE)
    assert outputs.valid_sizes.tolist() == [[height, width]]


@torch.no_grad()
@pytest.mark.parametrize("name", ["full_r50_coco_panoptic", "full_swin_tiny_coco_panoptic"])
def test_full_models_make_the_predictions_of_the_original(name):
    golden, meta = load_golden(name)
    keys = json.loads(gzip.decompress((GOLDEN / "state_dict_keys.json.gz").read_bytes()))
    model = golden_model(name, keys["architectures"][keys["configs"][meta["config"]]])
    outputs = model(golden_pixels(golden, meta), output_auxiliary_logits=True)
    close(outputs.class_queries_logits[0], golden["pred_logits"], FULL_TOLERANCE)
    close(outputs.auxiliary_logits[0]["class_queries_logits"][0], golden["aux0_pred_logits"], FULL_TOLERANCE)
    masks = outputs.masks_queries_logits[0, ::10, ::4, ::4]
    close(masks, golden["pred_masks_every_10th_query_stride4"], FULL_TOLERANCE)


def rectangles(boxes: list[list[int]], canvas: tuple[int, int]) -> torch.Tensor:
    masks = torch.zeros(len(boxes), *canvas, dtype=torch.uint8)
    for mask, (y0, x0, y1, x1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    return masks


@torch.no_grad()
def test_every_loss_term_has_the_mean_of_the_original(mini):
    """The points are random on both sides, so means over seeds are compared, within 4 standard errors."""
    golden, meta, model = mini
    pixels, expected = golden_pixels(golden, meta), meta["criterion"]
    masks = [rectangles(expected["target_rectangles_y0x0y1x1"], tuple(pixels.shape[-2:]))]
    classes = [torch.tensor(expected["target_labels"])]
    calls, runs = [], []
    hook = model.criterion.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    model(pixels, mask_labels=masks, class_labels=classes)
    hook.remove()
    (args, kwargs) = calls[0]
    for seed in range(expected["seeds"]):
        torch.manual_seed(seed)
        runs.append(model.criterion(*args, **kwargs)[1])
    assert set(runs[0]) == set(expected["unweighted"])
    for name, term in expected["unweighted"].items():
        values = torch.stack([run[name] for run in runs]).double()
        # Both means are estimates from `seeds` runs; a term without spread is compared to float32 rounding.
        standard_error = ((term["std"] ** 2 + values.var().item()) / expected["seeds"]) ** 0.5
        assert abs(values.mean().item() - term["mean"]) <= 4 * standard_error + 2e-6 * abs(term["mean"]), name
