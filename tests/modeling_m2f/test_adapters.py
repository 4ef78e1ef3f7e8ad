"""LoRA adapters of PEFT in a backbone: what they add is saved and loaded with the model, and merges into it."""

import pytest
import torch
from backbone_cases import backbone_fields
from small_models import small_model

from m2f.hub.transformers_models import to_transformers
from m2f.modeling_m2f.adapters import attention_projections, target_layers
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

peft = pytest.importorskip("peft")

FIELDS = {"encoder_layers": 1, "decoder_layers": 2}
PROJECTIONS = ["attention.k_proj", "attention.o_proj", "attention.q_proj", "attention.v_proj"]


def model_with_adapters(backbone: str, **fields) -> M2FForUniversalSegmentation:
    """Whose second matrices are no zeros, as after training."""
    model = small_model(backbone_config=backbone_fields(backbone), **FIELDS)
    model.add_backbone_adapters(rank=2, **fields)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["dinov3_vit", "swin"])
def test_adapters_change_nothing_at_first_and_are_saved_loaded_and_merged(backbone, tmp_path):
    pixels = torch.randn(1, 3, 64, 96)
    model = small_model(backbone_config=backbone_fields(backbone), **FIELDS)
    plain = model(pixels).masks_queries_logits
    model.add_backbone_adapters(rank=2)
    assert torch.equal(model(pixels).masks_queries_logits, plain)
    model = model_with_adapters(backbone)
    adapted = model(pixels)
    assert (adapted.masks_queries_logits - plain).abs().max() > 1e-4
    model.save_pretrained(tmp_path / "adapted")
    loaded = M2FForUniversalSegmentation.from_pretrained(tmp_path / "adapted")
    assert loaded.config.backbone_lora["rank"] == 2
    assert torch.equal(loaded(pixels).masks_queries_logits, adapted.masks_queries_logits)
    loaded.merge_backbone_adapters()
    loaded.save_pretrained(tmp_path / "merged")
    names = set(small_model(backbone_config=backbone_fields(backbone), **FIELDS).state_dict())
    merged = M2FForUniversalSegmentation.from_pretrained(tmp_path / "merged")
    assert set(merged.state_dict()) == names and merged.config.backbone_lora is None
    for name in ("class_queries_logits", "masks_queries_logits"):
        torch.testing.assert_close(merged(pixels)[name], adapted[name], rtol=0, atol=1e-5)


def test_a_new_model_of_such_a_configuration_has_adapters_that_change_nothing():
    config = model_with_adapters("dinov3_vit").config
    model = M2FForUniversalSegmentation(config)
    seconds = [p for name, p in model.named_parameters() if ".lora_B." in name]
    assert len(seconds) == 4 * 4 and not any(p.any() for p in seconds)


def test_targets_are_the_projections_of_attention_or_what_a_name_ends_with():
    vit = small_model(backbone_config=backbone_fields("dinov3_vit"), **FIELDS).model.pixel_level_module.encoder
    assert attention_projections(vit) == PROJECTIONS
    assert len(target_layers(vit, PROJECTIONS)) == 4 * 4
    assert target_layers(vit, ["layer.1.mlp.up_proj"]) == ["model.layer.1.mlp.up_proj"]
    with pytest.raises(ValueError, match="'proj' matches no layer of this DINOv3ViTBackbone.*such as mlp.down_proj"):
        target_layers(vit, ["q_proj", "proj"])
    resnet = small_model("resnet").model.pixel_level_module.encoder
    with pytest.raises(ValueError, match="ResNetBackbone has no projections of attention.*convolution"):
        target_layers(resnet, attention_projections(resnet))
    assert len(target_layers(resnet, ["shortcut.convolution"])) >= 1


def test_only_adapters_learn_also_behind_checkpointed_layers():
    model = model_with_adapters("dinov3_vit").train()
    encoder = model.model.pixel_level_module.encoder
    learning = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert learning == {name for name in encoder.state_dict() if ".lora_" in name}
    pixels, found = torch.randn(1, 3, 64, 64), []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        torch.manual_seed(1)  # of DINOv3's positions, which are jittered in training
        model(pixels).masks_queries_logits.square().mean().backward()
        found.append({name: p.grad.clone() for name, p in encoder.named_parameters() if p.requires_grad})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))
    assert all(gradient.any() for gradient in found[0].values())


def test_what_cannot_be_is_an_error_of_one_line():
    model = model_with_adapters("dinov3_vit", targets=["q_proj"])
    with pytest.raises(ValueError, match="has LoRA adapters already"):
        model.add_backbone_adapters(4)
    with pytest.raises(ValueError, match="merge them first"):
        to_transformers(model)
    for wrong in ({"rank": 0, "targets": ["q_proj"]}, {"rank": 8}, {"rank": 8, "targets": []}, [8]):
        with pytest.raises(ValueError, match="backbone_lora"):
            small_model(backbone_lora=wrong)
