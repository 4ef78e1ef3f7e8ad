"""Configurations that are read from the original's weights.

The expected numbers are those of the yaml files of its repository.
"""

import pytest
from golden_models import load_golden
from official_shapes import KEYS, meta_state_dict

from m2f.hub.original_config import config_kwargs_from_original

SWIN = {  # embed_dim, depths, num_heads, window_size
    "swin_tiny": (96, [2, 2, 6, 2], [3, 6, 12, 24], 7),
    "swin_small": (96, [2, 2, 18, 2], [3, 6, 12, 24], 7),
    "swin_base": (128, [2, 2, 18, 2], [4, 8, 16, 32], 12),
    "swin_large": (192, [2, 2, 18, 2], [6, 12, 24, 48], 12),
}
RESNET = {"R50": [3, 4, 6, 3], "R101": [3, 4, 23, 3]}  # depths
LABELS = {
    "coco/panoptic": 133,
    "coco/instance": 80,
    "cityscapes/panoptic": 19,
    "cityscapes/instance": 8,
    "cityscapes/semantic": 19,
    "ade20k/panoptic": 150,
    "ade20k/instance": 100,
    "ade20k/semantic": 150,
    "mapillary-vistas/panoptic": 65,
    "mapillary-vistas/semantic": 65,
}


def test_all_official_configurations_are_covered():
    assert (len(KEYS["configs"]), len(KEYS["architectures"])) == (47, 37)
    assert set(KEYS["configs"].values()) == set(KEYS["architectures"])


@pytest.mark.parametrize("path", KEYS["configs"])
def test_configuration_is_read_from_the_weights(path):
    kwargs = config_kwargs_from_original(meta_state_dict(KEYS["architectures"][KEYS["configs"][path]]))
    backbone = kwargs["backbone_config"]
    swin = next((value for name, value in SWIN.items() if name in path), None)
    if swin:
        assert tuple(backbone[key] for key in ("embed_dim", "depths", "num_heads", "window_size")) == swin
    else:
        depths = next(value for name, value in RESNET.items() if f"_{name}_" in path)
        assert (backbone["depths"], backbone["hidden_sizes"]) == (depths, [256, 512, 1024, 2048])
        assert (backbone["embedding_size"], backbone["layer_type"]) == (64, "bottleneck")
        # SyncBN in the Cityscapes configurations and in ADE20K's R101, FrozenBN in all others
        trained = path.startswith("cityscapes") or path.endswith("R101_bs16_90k.yaml")
        assert kwargs["backbone_frozen_batch_norm"] != trained
    assert kwargs["num_labels"] == next(value for name, value in LABELS.items() if path.startswith(name))
    assert kwargs["num_queries"] == (200 if "swin_large" in path and "semantic" not in path else 100)
    constant = {"hidden_dim": 256, "feature_size": 256, "mask_feature_size": 256, "encoder_layers": 6}
    constant |= {"decoder_layers": 10, "dim_feedforward": 2048, "encoder_feedforward_dim": 1024}
    assert {name: kwargs[name] for name in constant} == constant


def test_configuration_of_incomplete_or_other_weights_is_refused():
    shapes = load_golden("mini_r18")[1]["state_dict"]
    with pytest.raises(ValueError, match="query_feat.weight is missing"):
        config_kwargs_from_original(meta_state_dict({k: v for k, v in shapes.items() if "query_feat" not in k}))
    with pytest.raises(ValueError, match="neither Swin nor ResNet; its first names are backbone.vit"):
        other = {k: v for k, v in shapes.items() if not k.startswith("backbone")} | {"backbone.vit.weight": [1]}
        config_kwargs_from_original(meta_state_dict(other))
    attention = "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.self_attn.attention_weights.weight"
    with pytest.raises(ValueError, match="has 48 rows; 8 heads x 3 levels x 4 points are 96"):
        config_kwargs_from_original(meta_state_dict(shapes | {attention: [48, 64]}))
