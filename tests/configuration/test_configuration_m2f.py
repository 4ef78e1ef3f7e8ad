import json
import logging

import numpy as np
import pytest
import torch
from small_models import BACKBONES, small_config
from transformers import AutoConfig, Mask2FormerConfig, ResNetConfig

import m2f
from m2f.configuration.configuration_m2f import M2F_VERSION, M2FConfig
from m2f.hub.remote_code import bundle_files
from m2f.hub.transformers_models import to_transformers_config

# Fields that every configuration has; the rest are transformers' choices for this architecture.
OURS = {"task", "thing_label_ids", "mask_padding", "backbone_frozen_batch_norm", "recompute_feedforward"}
OURS |= {"class_weights", "masked_layers", "backbone_lora"}


@pytest.fixture
def log(caplog):
    """transformers' log lines of level WARNING and above; its logger does not propagate by itself."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_every_field_of_transformers_config_has_the_same_default():
    theirs, ours = Mask2FormerConfig().to_dict(), M2FConfig().to_dict()
    for name in ("model_type", "backbone_config", "transformers_version"):
        theirs.pop(name)
    assert {name: ours.get(name) for name in theirs} == theirs
    assert set(ours) - set(theirs) - {"model_type", "backbone_config", "transformers_version"} == OURS


def test_the_default_backbone_is_transformers(tmp_path):
    assert M2FConfig().backbone_config.to_dict() == Mask2FormerConfig().backbone_config.to_dict()


def test_a_mask2former_config_file_is_read_without_a_warning(tmp_path, log):
    theirs = Mask2FormerConfig(num_queries=17, hidden_dim=64, id2label={0: "sky", 1: "person"})
    theirs.architectures = ["Mask2FormerForUniversalSegmentation"]
    theirs.save_pretrained(tmp_path)
    ours = M2FConfig.from_pretrained(tmp_path)
    assert (ours.num_queries, ours.hidden_dim, ours.id2label) == (17, 64, {0: "sky", 1: "person"})
    assert ours.model_type == "m2f" and ours.architectures == ["M2FForUniversalSegmentation"]
    from_dict = M2FConfig.from_dict(json.loads((tmp_path / "config.json").read_text()))
    assert from_dict.num_queries == 17
    assert not [record for record in log.records if record.levelno >= logging.WARNING]


def test_fields_of_old_hub_files_do_no_harm(log):
    """Files on the Hub name a backbone of None, and no pretrained weights for it."""
    fields = {"model_type": "mask2former", "backbone": None, "use_pretrained_backbone": False, "backbone_kwargs": None}
    config = M2FConfig.from_dict({**fields, "use_timm_backbone": False, "num_hidden_layers": 7})
    assert config.decoder_layers == 7 and config.backbone_config.model_type == "swin"
    assert not [record for record in log.records if record.levelno >= logging.WARNING]


def test_a_foreign_count_of_classes_is_kept_as_any_other_foreign_field(tmp_path):
    """Other libraries' configurations name it so, and files carry it along; the labels are what counts here."""
    M2FConfig(num_labels=3, num_classes=7).save_pretrained(tmp_path)
    config = M2FConfig.from_pretrained(tmp_path)
    assert (config.num_classes, config.num_labels) == (7, 3)


def test_round_trip_through_a_folder_and_auto_config(tmp_path):
    config = small_config("convnext", task="panoptic", thing_label_ids=[0, 3], mask_padding=False)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is M2FConfig
    where = {name: loaded.to_dict()[name] for name in ("_name_or_path", "transformers_version")}
    assert loaded.to_dict() == {**config.to_dict(), **where}


def test_a_checkpoint_says_which_version_wrote_it(tmp_path, monkeypatch):
    """In its file alone: configurations are equal whichever version wrote them."""
    config = small_config("resnet")
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["m2f_version"] == m2f.__version__
    loaded = M2FConfig.from_pretrained(tmp_path)
    assert not hasattr(config, "m2f_version") and not hasattr(loaded, "m2f_version")
    assert loaded.to_diff_dict() == config.to_diff_dict()
    monkeypatch.setattr("m2f.configuration.configuration_m2f.M2F_VERSION", "7.8.9")
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["m2f_version"] == "7.8.9"
    assert type(AutoConfig.from_pretrained(tmp_path / "again")) is M2FConfig
    assert "m2f_version" not in to_transformers_config(loaded).to_dict()


def test_remote_code_has_the_version_as_a_constant():
    """m2f is not installed where it runs."""
    assert M2F_VERSION == m2f.__version__
    assert f'M2F_VERSION = "{m2f.__version__}"\n' in bundle_files()["configuration_m2f.py"]


def test_attribute_map():
    config = M2FConfig(hidden_size=64)
    assert config.hidden_dim == 64
    config.hidden_dim = 128
    assert config.hidden_size == 128 and config.num_hidden_layers == config.decoder_layers


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_backbone_without_out_features_gets_its_last_four_stages(backbone):
    assert small_config(backbone).backbone_config.out_features == ["stage1", "stage2", "stage3", "stage4"]


def test_chosen_out_features_are_kept():
    chosen = ResNetConfig(out_features=["stage2", "stage3"])
    assert M2FConfig(backbone_config=chosen).backbone_config.out_features == ["stage2", "stage3"]


def test_reference_row_26_resnet_is_taken_without_a_warning(log):
    """transformers declares Swin alone as supported and warns of every other backbone."""
    small_config("resnet")
    assert not [record for record in log.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task": "instances"}, ["'instances'", "panoptic, instance, semantic"]),
        ({"thing_label_ids": [1, 5], "num_labels": 5}, ["[5]", "0..4"]),
        ({"thing_label_ids": [-1], "num_labels": 5}, ["[-1]", "0..4"]),
        ({"thing_label_ids": [1, 1], "num_labels": 5}, ["[1, 1]", "twice"]),
        ({"hidden_dim": 30}, ["hidden_dim=30", "num_attention_heads=8"]),
        ({"feature_size": 48}, ["feature_size=48", "32"]),
        ({"num_queries": "many"}, ["num_queries='many'", "no number"]),
        ({"decoder_layers": 1}, ["decoder_layers=1", "2"]),
        ({"oversample_ratio": 0.5}, ["oversample_ratio=0.5"]),
        ({"importance_sample_ratio": 1.5}, ["importance_sample_ratio=1.5"]),
        ({"backbone_config": {"model_type": "swinn"}}, ["'swinn'", "swin"]),
        ({"backbone": "x/y", "backbone_config": {"model_type": "swin"}}, ["'x/y'", "not both"]),
    ],
)
def test_contradictions_are_named(fields, words):
    with pytest.raises(ValueError) as error:
        M2FConfig(**fields)
    assert all(word in str(error.value) for word in words), error.value


def test_reference_row_25_asking_a_config_for_pretrained_weights_is_an_error():
    """transformers drops the wish and starts from noise."""
    with pytest.raises(ValueError, match="from_pretrained_backbone"):
        M2FConfig(backbone="microsoft/resnet-50", use_pretrained_backbone=True)


@pytest.mark.parametrize("weights", [[2, 0, 1, 1, 0.5], (2.0, 0, 1, 1, 0.5), np.array([2, 0, 1, 1, 0.5])])
def test_class_weights_of_any_sequence_are_saved(weights, tmp_path):
    small_config(class_weights=weights).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["class_weights"] == [2, 0, 1, 1, 0.5]
    assert M2FConfig.from_pretrained(tmp_path).class_weights == [2, 0, 1, 1, 0.5]
    assert small_config(class_weights=torch.tensor(weights)).class_weights == [2, 0, 1, 1, 0.5]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"class_weights": [1, 2]}, "2 entries.*5 labels"),
        ({"class_weights": [1, 1, 1, 1, -2]}, "{4: -2}.*>= 0"),
        ({"class_weights": [1, 1, float("nan"), 1, 1]}, "{2: nan}"),
        ({"class_weights": [0] * 5}, "all 0"),
        ({"class_weights": 2.0}, "2.0 is no list.*class_weight"),
        ({"class_weights": ["1"] * 5}, "no list of numbers"),
        ({"class_weights": {"a": 1}}, "no list of numbers"),
        ({"class_weight": [1, 1, 1, 1, 1]}, "no number.*class_weights"),
        ({"no_object_weight": float("nan")}, "no_object_weight=nan"),
        ({"no_object_weight": -0.1}, "no_object_weight=-0.1"),
    ],
)
def test_class_weights_that_do_not_fit_are_named(fields, words):
    with pytest.raises(ValueError, match=words):
        small_config(**fields)


def test_default_stages_are_those_of_four_strides():
    def stages(**fields) -> list:
        config = M2FConfig(backbone_config=fields).backbone_config
        return getattr(config, "out_features", None) or config.out_indices

    assert stages(model_type="timm_backbone", backbone="resnet50") == [-4, -3, -2, -1]
    assert stages(model_type="pvt_v2") == ["stage1", "stage2", "stage3", "stage4"]
    assert stages(model_type="focalnet") == ["stem", "stage1", "stage2", "stage4"]
    assert stages(model_type="dinov2") == ["stage12"]
