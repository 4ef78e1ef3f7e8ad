"""Conversion of the original's weights.

The names and shapes are those of the original's own models, all its image configurations (tests/golden,
state_dict_keys.json.gz); the numbers of the configurations are those of the yaml files of its repository.
"""

import gzip
import json

import numpy as np
import pytest
import torch
from golden_models import GOLDEN, golden_pixels, load_golden, original_state_dict
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation
from transformers.core_model_loading import revert_weight_conversion

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.hub.original import convert_original_state_dict
from m2f.hub.original_config import config_kwargs_from_original
from m2f.hub.transformers_models import to_transformers_config
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

KEYS = json.loads(gzip.decompress((GOLDEN / "state_dict_keys.json.gz").read_bytes()))
ATTENTION = "sem_seg_head.predictor.transformer_self_attention_layers.0.self_attn.in_proj_weight"
# transformers' Swin makes two weights that it never uses, and that no checkpoint of before has.
UNUSED = {f"model.pixel_level_module.encoder.swin.layernorm.{leaf}" for leaf in ("weight", "bias")}

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


def meta_state_dict(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def names_on_disk(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes as save_pretrained writes them; a Swin backbone has other names in memory."""
    weights = revert_weight_conversion(model, model.state_dict())
    return {name: tuple(value.shape) for name, value in weights.items() if name not in UNUSED}


def transformers_config(kwargs: dict) -> Mask2FormerConfig:
    return Mask2FormerConfig(**{name: value for name, value in kwargs.items() if name != "backbone_frozen_batch_norm"})


@pytest.mark.parametrize("architecture", KEYS["architectures"])
def test_every_official_architecture_has_its_names_and_shapes(architecture):
    """In our files and in those of a model of ours that is saved for transformers."""
    original = meta_state_dict(KEYS["architectures"][architecture])
    kwargs = config_kwargs_from_original(original)
    converted = {name: tuple(value.shape) for name, value in convert_original_state_dict(original).items()}
    with torch.device("meta"):
        ours = M2FForUniversalSegmentation(M2FConfig(**kwargs))
        theirs = Mask2FormerForUniversalSegmentation(to_transformers_config(ours.config))
    assert converted == names_on_disk(ours)
    assert converted == names_on_disk(theirs)


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


@torch.no_grad()
@pytest.mark.parametrize("name", ["mini_swin", "mini_r18"])
def test_converted_weights_make_the_predictions_of_the_original_in_transformers_model(name):
    """Independent of our model: a weight in the wrong place cannot be made up for there."""
    golden, meta = load_golden(name)
    original = original_state_dict(meta["state_dict"])
    config = transformers_config(config_kwargs_from_original(original))
    model = Mask2FormerForUniversalSegmentation.from_pretrained(
        None, config=config, state_dict=convert_original_state_dict(original)
    )
    outputs = model.eval()(golden_pixels(golden, meta))
    # 1e-4 is the project's limit for these models; measured: 3e-5.
    for key, logits in (("pred_logits", outputs.class_queries_logits), ("pred_masks", outputs.masks_queries_logits)):
        np.testing.assert_allclose(logits[0].numpy(), golden[key], atol=1e-4, rtol=0)


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (ATTENTION, [f"model.transformer_module.decoder.layers.0.self_attn.{x}_proj.weight" for x in "qkv"]),
        (
            "backbone.layers.2.blocks.5.attn.qkv.bias",
            [
                f"model.pixel_level_module.encoder.encoder.layers.2.blocks.5.attention.self.{x}.bias"
                for x in ("query", "key", "value")
            ],
        ),
    ],
)
def test_packed_attention_weights_are_split_in_order(name, parts, as_array):
    packed = torch.arange(12.0) if name.endswith("bias") else torch.arange(24.0).reshape(12, 2)
    packed = packed.numpy() if as_array else packed
    converted = convert_original_state_dict({name: packed})
    assert list(converted) == parts
    join = np.concatenate if as_array else torch.cat
    assert (join(list(converted.values())) == packed).all()
    assert all(type(value) is type(packed) and value.dtype == packed.dtype for value in converted.values())
    packed[:] = -1  # the parts are copies: files cannot hold tensors that share memory
    assert all((value >= 0).all() for value in converted.values())


def test_cross_attention_stays_packed_and_values_are_passed_on():
    name = "sem_seg_head.predictor.transformer_cross_attention_layers.3.multihead_attn.in_proj_weight"
    value = torch.rand(6, 2)
    converted = convert_original_state_dict({name: value})
    assert converted == {"model.transformer_module.decoder.layers.3.cross_attn.in_proj_weight": value}


def test_stages_and_convolutions_are_counted_from_ours():
    ones = torch.ones(1)
    converted = convert_original_state_dict({"backbone.res2.0.conv1.weight": ones, "backbone.norm3.bias": ones})
    assert list(converted) == [
        "model.pixel_level_module.encoder.encoder.stages.0.layers.0.layer.0.convolution.weight",
        "model.pixel_level_module.encoder.hidden_states_norms.stage4.bias",
    ]


@pytest.mark.parametrize("kind", [torch.ones, np.ones])
def test_frozen_batch_norm_gets_a_count_and_another_keeps_its_own(kind):
    norm = "backbone.stem.conv1.norm."
    frozen = convert_original_state_dict({f"{norm}running_var": kind(4)})
    count = frozen["model.pixel_level_module.encoder.embedder.embedder.normalization.num_batches_tracked"]
    assert (count.shape, count.item(), str(count.dtype).split(".")[-1]) == ((), 0, "int64")
    trained = {f"{norm}num_batches_tracked": kind(()) * 7, f"{norm}running_var": kind(4)}
    counts = [v for name, v in convert_original_state_dict(trained).items() if name.endswith("num_batches_tracked")]
    assert [count.item() for count in counts] == [7]


def test_no_weight_is_lost():
    """Only Swin's index, which follows from the window size, has no place in the converted weights."""
    shapes = load_golden("mini_swin")[1]["state_dict"]
    original = {name: np.zeros(shape) for name, shape in shapes.items()}
    kept = sum(value.size for name, value in original.items() if not name.endswith("relative_position_index"))
    assert sum(value.size for value in convert_original_state_dict(original).values()) == kept


def test_older_names_of_the_original_are_known():
    """`static_query`, and a pixel decoder without a level of its own, were in checkpoints of the first version."""
    shapes = load_golden("mini_r18")[1]["state_dict"]
    new = {name: np.ones(shape) * i for i, (name, shape) in enumerate(shapes.items())}
    old = {
        name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.").replace("query_feat", "static_query"): value
        for name, value in new.items()
    }
    assert set(old) != set(new)
    converted = convert_original_state_dict(old)
    expected = convert_original_state_dict(new)
    assert converted.keys() == expected.keys()
    assert all((converted[name] == expected[name]).all() for name in expected)
    assert config_kwargs_from_original(old) == config_kwargs_from_original(new)


def test_all_unknown_names_are_listed():
    weights = {"backbone.head.weight": 0, "criterion.empty_weight": 0, "module.x": 0, "backbone.norm0.gamma": 0}
    with pytest.raises(ValueError, match="3 of 4 names") as error:
        convert_original_state_dict(dict.fromkeys(weights, np.ones(1)))
    for name in ("backbone.head.weight", "module.x", "backbone.norm0.gamma"):
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("sem_seg_head.predictor.weight", "per-pixel baseline"),
        ("sem_seg_head.predictor.transformer.decoder.layers.0.norm1.weight", "MaskFormer"),
        ("sem_seg_head.pixel_decoder.adapter_3.weight", "another pixel decoder"),
        ("sem_seg_head.layer_4.weight", "another pixel decoder"),
    ],
)
def test_other_models_of_the_original_are_refused_by_name(name, model):
    with pytest.raises(ValueError, match=model):
        convert_original_state_dict({name: np.ones(1)})


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match=r"criterion.empty_weight \(list\)"):
        convert_original_state_dict({"criterion.empty_weight": [1.0]})
    with pytest.raises(ValueError, match=r"shape \(10, 2\); its first axis must be a multiple of 3"):
        convert_original_state_dict({ATTENTION: np.ones((10, 2))})
    with pytest.raises(ValueError, match="must be a multiple of 3"):
        convert_original_state_dict({ATTENTION: np.ones(())})
    both = {f"sem_seg_head.predictor.{name}.weight": np.ones(1) for name in ("query_feat", "static_query")}
    with pytest.raises(ValueError, match="second name for model.transformer_module.queries_features.weight"):
        convert_original_state_dict(both)


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
