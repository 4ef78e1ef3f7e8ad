"""What every backbone has to do, for the list in `backbone_cases`; docs/backbones.md is held against it."""

from functools import cache
from pathlib import Path

import pytest
import torch
from backbone_cases import CASES, REFUSED, TESTED_WITH, backbone_fields, refused_table, table
from small_models import corner_mask, small_model
from torch.nn.functional import pad
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES
from transformers.utils import is_timm_available

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation, M2FModel

STRIDES = (4, 8, 16, 32)
SIZE = (50, 61)  # of an image; no multiple of anything
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "backbones.md"


@cache
def model_with(name: str) -> M2FForUniversalSegmentation:
    return small_model(backbone_config=backbone_fields(name), encoder_layers=1, decoder_layers=2)


@pytest.fixture(params=CASES)
def name(request) -> str:
    if request.param == "timm_backbone" and not is_timm_available():
        pytest.skip("timm or torchvision, which transformers asks for with it, is not installed")
    return request.param


def encoder_of(model: M2FForUniversalSegmentation) -> torch.nn.Module:
    return model.model.pixel_level_module.encoder


def test_maps_have_exact_strides_and_every_parameter_learns(name):
    """Inputs of another size than multiples of 32 are padded to them; a backbone for one size is padded to it."""
    model = model_with(name).train()
    try:
        outputs = model(torch.randn(2, 3, *SIZE if CASES[name].size else (50, 70)), output_hidden_states=True)
    finally:
        model.eval()
    canvas = CASES[name].size or (64, 96)
    maps = outputs.encoder_hidden_states
    assert [tuple(x.shape[2:]) for x in maps] == [tuple(n // stride for n in canvas) for stride in STRIDES]
    assert outputs.masks_queries_logits.isfinite().all()
    model.zero_grad()
    outputs.masks_queries_logits.square().mean().backward()
    level = model.model.pixel_level_module
    without = [key for key, p in level.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without
    learned = sum(bool(p.grad.any()) for p in level.encoder.parameters())
    assert learned > 0.6 * len(list(level.encoder.parameters()))
    model.zero_grad()


@torch.no_grad()
def test_an_image_gives_the_same_result_in_every_batch(name):
    """Behind the backbone, which sees padding: its maps are made from the image alone, with noise around them."""
    model = model_with(name)
    image = torch.randn(1, 3, *SIZE)
    own, canvas = (64, 64), CASES[name].size or (96, 96)
    maps = []
    hook = encoder_of(model).register_forward_hook(lambda module, args, output: maps.extend(output.feature_maps))
    alone = model(pad(image, (0, 64 - SIZE[1], 0, 64 - SIZE[0])), pixel_mask=corner_mask(own, [SIZE]))
    hook.remove()

    def batched(module, args, output):
        for features, of_the_image in zip(output.feature_maps, maps, strict=True):
            stride = 64 / of_the_image.shape[-1]
            rows, columns = (int(-(-length // stride)) for length in SIZE)
            features.normal_(std=100)
            features[0, :, :rows, :columns] = of_the_image[0, :, :rows, :columns]
        return output

    hook = encoder_of(model).register_forward_hook(batched)
    sizes = [SIZE, canvas]
    batch = model(torch.randn(2, 3, *canvas), pixel_mask=corner_mask(canvas, sizes))
    hook.remove()
    torch.testing.assert_close(batch.class_queries_logits[0], alone.class_queries_logits[0], atol=2e-5, rtol=1e-5)
    cells = slice(None), slice(-(-SIZE[0] // 4)), slice(-(-SIZE[1] // 4))
    both = batch.masks_queries_logits[0][cells], alone.masks_queries_logits[0][cells]
    torch.testing.assert_close(*both, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_saved_models_are_loaded(name, tmp_path):
    model, pixels = model_with(name), torch.randn(1, 3, 64, 64)
    model.save_pretrained(tmp_path)
    loaded = M2FForUniversalSegmentation.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(pixels).masks_queries_logits, model(pixels).masks_queries_logits)
    assert {key: x.shape for key, x in loaded.state_dict().items()} == {
        key: x.shape for key, x in model.state_dict().items()
    }


@pytest.mark.parametrize(
    ("backbone_config", "words"),
    [
        ({"model_type": "swin", "out_features": ["stage1", "stage2", "stage3", "stage7"]}, ["'stage7'", "stage4"]),
        ({"model_type": "dinov2", "out_indices": [40]}, ["40", "dinov2", "stem, stage1 to stage12"]),
        ({"model_type": "dinov2", "out_features": "stage12"}, ["must be a list"]),
        ({"model_type": "resnet", "out_features": ["stem", "stage1", "stage3", "stage4"]}, ["strides [4, 8, 16, 32]"]),
        (
            {**backbone_fields("focalnet"), "out_features": ["stage1", "stage2", "stage3", "stage4"]},
            ["strides [4, 8, 16, 32]", "out_features", "focalnet"],
        ),
        ({"model_type": "dinov2", "out_features": ["stage1", "stage2"]}, ["2 stages", "one"]),
        ({"model_type": "dinov2", "reshape_hidden_states": False}, ["tokens", "reshape_hidden_states=True"]),
        ({"model_type": "vitdet", "patch_size": [16, 8]}, ["patch_size"]),
        ({"model_type": "vitdet", "patch_size": 64, "image_size": 128}, ["patches of 64", "feature_strides"]),
        ({"model_type": "pp_lcnet_v4"}, ["strides [4, 8, 16, 32]", "pp_lcnet_v4"]),
        ({"model_type": "uvdoc_backbone"}, ["uvdoc_backbone"]),
        ({"model_type": "vitpose_backbone"}, ["vitpose_backbone"]),
        ({"model_type": "timm_backbone", "backbone": "no_such_network"}, ["timm"]),
    ],
)
def test_a_backbone_that_does_not_do_is_one_clear_error_before_weights_are_made(backbone_config, words):
    with torch.device("meta"), pytest.raises(ValueError) as error:
        M2FModel(M2FConfig(backbone_config=backbone_config))
    message = str(error.value)
    assert all(word in message for word in words) and "\n" not in message, message


def test_a_beit_with_a_pyramid_of_its_own_gets_no_other():
    model = small_model(
        backbone_config={**backbone_fields("beit"), "add_fpn": True}, encoder_layers=1, decoder_layers=2
    )
    assert model.model.pixel_level_module.feature_pyramid is None
    maps = model(torch.randn(1, 3, 64, 64), output_hidden_states=True).encoder_hidden_states
    assert [x.shape[1:] for x in maps] == [(32, 64 // stride, 64 // stride) for stride in STRIDES]


def test_a_backbone_for_one_size_names_it():
    with pytest.raises(ValueError, match="64 x 64 pixels, got 64 x 96"):
        model_with("hiera")(torch.randn(1, 3, 64, 96))


def test_every_backbone_of_transformers_has_a_row_and_the_page_has_them():
    known = {*CASES, *REFUSED}
    assert set(MODEL_FOR_BACKBONE_MAPPING_NAMES) >= known
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    for rows in (table(), refused_table()):
        start = lines.index(rows[0])
        assert lines[start : start + len(rows) + 1] == [*rows, ""], "\n".join(rows)
    assert TESTED_WITH in " ".join(lines)
