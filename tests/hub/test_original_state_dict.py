"""Conversion of the original's weights.

The names and shapes are those of the original's own models, all its image configurations (tests/golden,
state_dict_keys.json.gz); the numbers of the configurations are those of the yaml files of its repository.
"""

import numpy as np
import pytest
import torch
from golden_models import golden_pixels, load_golden, original_state_dict
from official_shapes import KEYS, meta_state_dict
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation
from transformers.core_model_loading import revert_weight_conversion

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.hub.original_config import config_kwargs_from_original
from m2f.hub.original_state_dict import convert_original_state_dict
from m2f.hub.transformers_models import to_transformers_config
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

ATTENTION = "sem_seg_head.predictor.transformer_self_attention_layers.0.self_attn.in_proj_weight"
# transformers' Swin makes two weights that it never uses, and that no checkpoint of before has.
UNUSED = {f"model.pixel_level_module.encoder.swin.layernorm.{leaf}" for leaf in ("weight", "bias")}


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
