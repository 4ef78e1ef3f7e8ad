from types import SimpleNamespace

import pytest
import torch
from small_models import BACKBONES, small_config, small_model
from transformers import (
    AutoConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)

from m2f.modeling_m2f.backbone import load_pretrained_backbone
from m2f.modeling_m2f.frozen_batch_norm import FrozenBatchNorm2d
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation, M2FModel

CLASSIFIERS = {
    "swin": SwinForImageClassification,
    "resnet": ResNetForImageClassification,
    "convnext": ConvNextForImageClassification,
}


def save_classifier(backbone: str, folder) -> torch.nn.Module:
    fields = {name: value for name, value in BACKBONES[backbone].items() if name != "model_type"}
    classifier = CLASSIFIERS[backbone](AutoConfig.for_model(backbone, **fields)).eval()
    for module in classifier.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
    classifier.save_pretrained(folder)
    return classifier


@pytest.mark.parametrize("backbone", BACKBONES)
def test_reference_row_25_a_pretrained_backbone_is_loaded(backbone, tmp_path):
    classifier = save_classifier(backbone, tmp_path)
    model = M2FForUniversalSegmentation.from_pretrained_backbone(str(tmp_path), feature_size=32, hidden_dim=32)
    state = model.model.pixel_level_module.encoder.state_dict()
    compared = 0
    for name, tensor in classifier.base_model.state_dict().items():
        for candidate in (name, f"swin.{name}"):
            if candidate in state:
                assert torch.equal(state[candidate], tensor), name
                compared += 1
    assert compared > 20


def test_a_given_config_is_used_with_a_pretrained_backbone(tmp_path):
    save_classifier("resnet", tmp_path)
    model = M2FModel.from_pretrained_backbone(str(tmp_path), small_config("resnet"))
    assert model.config.num_queries == 8
    with pytest.raises(ValueError, match="not both"):
        M2FModel.from_pretrained_backbone(str(tmp_path), small_config("resnet"), num_queries=3)


def test_reference_row_25_missing_backbone_weights_are_an_error(tmp_path):
    save_classifier("resnet", tmp_path)
    with pytest.raises(OSError):
        M2FForUniversalSegmentation.from_pretrained_backbone(str(tmp_path / "absent"))
    deeper = small_config("resnet", backbone_config={**BACKBONES["resnet"], "depths": [1, 1, 1, 2]})
    with pytest.raises(ValueError, match=r"missing .*stages\.3\.layers\.1"):
        M2FForUniversalSegmentation.from_pretrained_backbone(str(tmp_path), deeper)
    wider = small_config("resnet", backbone_config={**BACKBONES["resnet"], "hidden_sizes": [8, 16, 24, 40]})
    with pytest.raises(ValueError, match=r"other shapes for .*stages\.3"):
        M2FForUniversalSegmentation.from_pretrained_backbone(str(tmp_path), wider)


def test_weights_that_timm_keeps_are_an_error():
    backbone = SimpleNamespace(config=SimpleNamespace(model_type="timm_backbone"))
    with pytest.raises(ValueError, match="'resnet50'.*state_dict"):
        load_pretrained_backbone(backbone, "resnet50")


def test_reference_row_26_frozen_batch_norm_neither_learns_nor_counts():
    model = small_model("resnet").train()
    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert len(norms) > 5 and not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    before = [norm.running_mean.clone() for norm in norms]
    model(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    assert not [name for name, _ in model.named_parameters() if ".normalization." in name]


def test_frozen_batch_norm_computes_what_batch_norm_computes_in_evaluation():
    reference = torch.nn.BatchNorm2d(6).eval()
    for tensor in (reference.weight, reference.bias, reference.running_mean):
        torch.nn.init.normal_(tensor)
    reference.running_var.uniform_(0.5, 2)
    frozen = FrozenBatchNorm2d(6)
    frozen.load_state_dict(reference.state_dict())
    features = torch.randn(2, 6, 5, 7)
    torch.testing.assert_close(frozen.train()(features), reference(features))


def test_reference_row_26_batch_norm_trains_when_asked():
    model = small_model("resnet", backbone_frozen_batch_norm=False).train()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    before = norms[0].running_mean.clone()
    model(torch.randn(2, 3, 64, 64))
    assert norms[0].weight.requires_grad and not torch.equal(norms[0].running_mean, before)


@pytest.mark.parametrize("frozen", [True, False])
def test_both_kinds_of_batch_norm_load_each_others_checkpoints(frozen, tmp_path):
    model = small_model("resnet", backbone_frozen_batch_norm=frozen)
    model.save_pretrained(tmp_path)
    other = M2FForUniversalSegmentation.from_pretrained(tmp_path, backbone_frozen_batch_norm=not frozen).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(other(pixels).masks_queries_logits, model(pixels).masks_queries_logits)


@pytest.mark.parametrize(
    ("backbone_config", "words"),
    [
        (ResNetConfig(out_features=["stage3", "stage4"]), ["2 feature maps", "four"]),
        (AutoConfig.for_model("bert"), ["BertConfig"]),
    ],
)
def test_unusable_backbones_are_named(backbone_config, words):
    with pytest.raises(ValueError) as error:
        M2FModel(small_config(backbone_config=backbone_config))
    assert all(word in str(error.value) for word in words), error.value


def test_a_backbone_with_other_strides_is_named():
    config = SwinConfig(patch_size=8, embed_dim=16, depths=[1] * 4, num_heads=[1, 1, 2, 2])
    with pytest.raises(ValueError, match=r"strides \[4, 8, 16, 32\].*out_features"):
        M2FModel(small_config(backbone_config=config))
