"""The original's rules (its train_net.py), counted on a model of Swin-T's depths."""

import pytest
import torch
from backbone_cases import backbone_fields
from small_models import small_model
from torch import nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.modeling_m2f.backbone import backbone_without_memory
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.block_depths import block_depths
from m2f.training.parameter_groups import parameter_groups

SWIN_TINY = {
    "model_type": "swin",
    "depths": [2, 2, 6, 2],
    "embed_dim": 8,
    "num_heads": [1, 2, 4, 8],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}

# The original's Swin-T has 469 tensors: head 199 with decay and 93 without, backbone 101 and 76. transformers keeps
# query, key and value of 12 Swin blocks and of 9 self-attentions apart, 2 weights and 2 biases more for each of them.
COUNTS = {"head": 199 + 9 * 4, "head_no_decay": 93, "backbone": 101 + 12 * 4, "backbone_no_decay": 76}


def small_swin(**backbone) -> M2FForUniversalSegmentation:
    config = M2FConfig(backbone_config={**SWIN_TINY, **backbone}, feature_size=32, hidden_dim=32, mask_feature_size=32)
    with torch.device("meta"):
        return M2FForUniversalSegmentation(config)


def names_by_group(model: nn.Module, **options) -> dict[str, set[str]]:
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, lr=1e-4, weight_decay=0.05, **options)
    return {group["name"]: {name_of[parameter] for parameter in group["params"]} for group in groups}


def test_counts_of_swin_tiny_are_those_of_the_original():
    model = small_swin()
    groups = names_by_group(model)
    assert {name: len(parameters) for name, parameters in groups.items()} == COUNTS
    assert set.union(*groups.values()) == {name for name, _ in model.named_parameters()}


def test_reference_row_45_biases_decay_and_norms_and_embeddings_do_not():
    """transformers' Trainer decays embeddings and the pixel decoder's GroupNorm, and no bias."""
    groups = names_by_group(small_swin())
    decoder = "model.transformer_module"
    assert {
        "model.pixel_level_module.decoder.level_embed",
        "model.pixel_level_module.decoder.input_projections.0.0.bias",
        f"{decoder}.decoder.layers.0.fc1.bias",
        f"{decoder}.decoder.layers.0.cross_attn.in_proj_weight",
        "class_predictor.bias",
    } <= groups["head"]
    assert {
        f"{decoder}.queries_embedder.weight",
        f"{decoder}.queries_features.weight",
        f"{decoder}.level_embed.weight",
        f"{decoder}.decoder.layernorm.weight",
        "model.pixel_level_module.decoder.input_projections.0.1.weight",
        "model.pixel_level_module.decoder.adapter_1.1.bias",
    } <= groups["head_no_decay"]
    tables = {name for name in groups["backbone_no_decay"] if name.endswith("relative_position_bias_table")}
    assert len(tables) == 12


def test_absolute_position_embeddings_do_not_decay():
    groups = names_by_group(small_swin(use_absolute_embeddings=True, image_size=32))
    assert len(groups["backbone_no_decay"]) == COUNTS["backbone_no_decay"] + 1
    assert len(groups["backbone"]) == COUNTS["backbone"]


def test_learning_rates_and_decays():
    groups = {group["name"]: group for group in parameter_groups(small_swin(), lr=2e-4, weight_decay=0.05)}
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "head": (2e-4, 0.05),
        "head_no_decay": (2e-4, 0.0),
        "backbone": (pytest.approx(2e-5), 0.05),
        "backbone_no_decay": (pytest.approx(2e-5), 0.0),
    }
    groups = parameter_groups(small_swin(), lr=2e-4, weight_decay=0.05, backbone_lr_multiplier=1.0)
    assert {group["lr"] for group in groups} == {2e-4}


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_norm_of_a_resnet_has_no_decay_and_if_frozen_no_group(frozen):
    backbone = {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 8, 8, 8],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    config = M2FConfig(
        backbone_config=backbone, feature_size=32, hidden_dim=32, decoder_layers=2, backbone_frozen_batch_norm=frozen
    )
    with torch.device("meta"):
        model = M2FForUniversalSegmentation(config)
    groups = names_by_group(model)
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(groups.get("backbone_no_decay", ())) == 2 * len(norms)
    assert bool(norms) != frozen


def test_frozen_parameters_are_left_out_and_shared_ones_counted_once():
    model = small_swin()
    model.model.pixel_level_module.encoder.requires_grad_(False)
    model.tied = nn.Linear(32, 81, bias=False, device="meta")
    model.tied.weight = model.class_predictor.weight
    groups = parameter_groups(model, lr=1e-4, weight_decay=0.05)
    assert {group["name"]: len(group["params"]) for group in groups} == {
        name: count for name, count in COUNTS.items() if name.startswith("head")
    }


def rates(model: nn.Module, **options) -> dict[str, float]:
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, lr=1.0, weight_decay=0.05, **options)
    encoder = "model.pixel_level_module.encoder."
    return {name_of[parameter].removeprefix(encoder): group["lr"] for group in groups for parameter in group["params"]}


def test_rates_fall_from_block_to_block_towards_the_pixels():
    """BEiT's rule, written out: of N = 4 blocks embeddings have decay^5, block i (from 0) decay^(4 - i)."""
    fields = backbone_fields("dinov3_vit")
    found = rates(small_model(backbone_config=fields), backbone_lr_multiplier=0.5, layer_decay=0.8)
    assert found["embeddings.cls_token"] == found["embeddings.patch_embeddings.weight"] == 0.5 * 0.8**5
    blocks = [found[f"model.layer.{i}.attention.q_proj.weight"] for i in range(4)]
    assert blocks == [0.5 * 0.8**4, 0.5 * 0.8**3, 0.5 * 0.8**2, 0.5 * 0.8]
    assert found["norm.weight"] == 0.5
    assert found["class_predictor.weight"] == found["model.pixel_level_module.decoder.level_embed"] == 1
    assert {rate for name, rate in found.items() if "feature_pyramid" in name} == {1}
    # Counted through the stages; what merges patches belongs to the block before it.
    found = rates(small_swin(depths=[1, 2, 1, 1]), layer_decay=0.5, backbone_lr_multiplier=1)
    layers = "swin.encoder.layers"
    places = [f"{layers}.{i}.blocks.{j}.mlp.fc1.weight" for i, j in ((0, 0), (1, 0), (1, 1), (2, 0), (3, 0))]
    assert [found[name] for name in places] == [2.0**-i for i in (5, 4, 3, 2, 1)]
    assert found[f"{layers}.1.downsample.reduction.weight"] == 2.0**-3
    assert found["swin.embeddings.patch_embeddings.projection.weight"] == 2.0**-6
    assert {rate for name, rate in found.items() if name.startswith("hidden_states_norms")} == {1}


def test_depths_are_told_by_backbones_of_all_kinds_or_the_error_says_what_to_do():
    untold = []
    for name in ("swin", "convnext", "resnet", "hgnet_v2", "dinov2", "vitdet", "beit"):
        backbone = backbone_without_memory(M2FConfig(backbone_config=backbone_fields(name)).backbone_config)
        try:
            depths, blocks = block_depths(backbone)
        except ValueError as error:
            assert "--layer-decay" in str(error) and "--backbone-lr-multiplier" in str(error) and name in str(error)
            untold.append(name)
            continue
        assert set(depths) == {name for name, _ in backbone.named_parameters()}
        assert blocks >= 4 and set(range(blocks + 1)) <= set(depths.values()) <= set(range(blocks + 2)), name
    assert untold == ["hgnet_v2"]


def test_transformers_model_gives_the_same_counts():
    """Beside the unused layer norm of its Swin, which this package keeps out of the parameters."""
    config = Mask2FormerConfig(backbone_config=SWIN_TINY, feature_size=32, hidden_dim=32, mask_feature_size=32)
    with torch.device("meta"):
        model = Mask2FormerForUniversalSegmentation(config)
    counts = {name: len(parameters) for name, parameters in names_by_group(model).items()}
    assert counts == {**COUNTS, "backbone_no_decay": COUNTS["backbone_no_decay"] + 2}
