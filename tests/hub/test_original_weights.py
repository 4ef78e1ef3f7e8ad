"""The original's weights in a model that exists. Expected: a model that was made from them (`golden_model`, whose
outputs the golden files confirm)."""

import pytest
import torch
from golden_models import CONFIGS, golden_model, load_golden, original_state_dict

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.hub.original_state_dict import convert_original_state_dict
from m2f.hub.original_weights import load_original_weights
from m2f.modeling_m2f.checkpoint_report import CheckpointMismatchError
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation, M2FModel


@pytest.fixture(scope="module", params=["mini_swin", "mini_r18"])
def checkpoint(request) -> tuple[str, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Its name, the original's weights, and the model's that was made from them."""
    shapes = load_golden(request.param)[1]["state_dict"]
    return request.param, original_state_dict(shapes), golden_model(request.param, shapes).state_dict()


def new_model(name: str, make=M2FForUniversalSegmentation, **fields) -> torch.nn.Module:
    return make(M2FConfig(**{**CONFIGS[name], **fields}))


def copied(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_model_that_exists_takes_the_original_weights_from_file_or_memory(checkpoint, tmp_path):
    name, original, expected = checkpoint
    torch.save({"model": original}, tmp_path / "model.pth")
    for source in (tmp_path / "model.pth", original, convert_original_state_dict(original)):
        model = new_model(name)
        assert load_original_weights(model, source) is model
        loaded = model.state_dict()
        assert loaded.keys() == expected.keys()
        different = [k for k in loaded if not torch.equal(loaded[k], expected[k]) and "swin.layernorm" not in k]
        assert different == []


def test_the_network_alone_leaves_the_classifier(checkpoint):
    name, original, expected = checkpoint
    loaded = load_original_weights(new_model(name, M2FModel), original).state_dict()
    assert all(torch.equal(value, expected[f"model.{k}"]) for k, value in loaded.items() if "swin.layernorm" not in k)


def test_dtype_and_optimizer_stay_with_the_model(checkpoint):
    name, original, expected = checkpoint
    model = new_model(name).to(torch.bfloat16)
    weight = model.class_predictor.weight
    load_original_weights(model, original)
    assert model.class_predictor.weight is weight and model.dtype == torch.bfloat16
    assert torch.equal(weight, expected["class_predictor.weight"].bfloat16())


def test_what_does_not_fit_is_listed_and_the_model_stays_as_it_was(checkpoint):
    name, original, _ = checkpoint
    lacking = {k: v for k, v in original.items() if k != "sem_seg_head.predictor.query_feat.weight"}
    model = new_model(name, num_labels=3)
    before = copied(model)
    with pytest.raises(
        CheckpointMismatchError, match=r"Missing \(1\): .*queries_features.* Of another shape \([23]\)"
    ):
        load_original_weights(model, lacking)
    assert all(torch.equal(value, before[k]) for k, value in model.state_dict().items())


def test_a_classifier_of_other_classes_is_kept_on_request(checkpoint):
    name, original, expected = checkpoint
    model = new_model(name, num_labels=3)
    before = copied(model)
    load_original_weights(model, original, ignore_mismatched_sizes=True)
    loaded = model.state_dict()
    for k in ("class_predictor.weight", "class_predictor.bias", "criterion.empty_weight"):
        assert torch.equal(loaded[k], before[k])
    query = "model.transformer_module.queries_features.weight"
    assert torch.equal(loaded[query], expected[query])


def test_load_state_dict_names_the_call_that_loads_names_of_files_and_of_the_original(checkpoint):
    name, original, _ = checkpoint
    model = new_model(name)
    weights = [original, *([convert_original_state_dict(original)] if name == "mini_swin" else [])]
    for state_dict in weights:
        with pytest.raises(RuntimeError, match=r"(?s)load_original_weights\(model, weights\).*Missing key"):
            model.load_state_dict(state_dict)


def test_load_state_dict_that_is_not_strict_warns_that_the_backbone_stays_as_it_is(monkeypatch):
    warnings = []
    monkeypatch.setattr("m2f.modeling_m2f.pretrained_model.logger.warning", warnings.append)
    shapes = load_golden("mini_swin")[1]["state_dict"]
    model = new_model("mini_swin")
    keys = model.load_state_dict(convert_original_state_dict(original_state_dict(shapes)), strict=False)
    assert len(warnings) == 1 and "load_original_weights" in warnings[0]
    assert warnings[0].startswith(f"{len(keys.unexpected_keys)} weights were not loaded")
    model.load_state_dict(model.state_dict(), strict=False)
    assert len(warnings) == 1


def test_other_wrong_names_get_the_error_of_pytorch_alone():
    model = new_model("mini_r18")
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict({**model.state_dict(), "nonsense": torch.zeros(1)})
    assert "load_original_weights" not in str(error.value) and "nonsense" in str(error.value)
