"""Initialisation and loading."""

import math
import os

import pytest
import torch
from small_models import small_config, small_model

from m2f.modeling_m2f.checkpoint_report import CheckpointMismatchError
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation, M2FModel


@pytest.mark.parametrize(
    ("name", "std"),
    # Standard deviations of a fresh Swin-T model of the original.
    [
        ("pixel_level_module.decoder.input_projections.0.0.weight", 0.0442),
        ("pixel_level_module.decoder.input_projections.1.0.weight", 0.0559),
        ("pixel_level_module.decoder.input_projections.2.0.weight", 0.0666),
        ("pixel_level_module.decoder.adapter_1.0.weight", 0.1018),
        ("pixel_level_module.decoder.mask_projection.weight", 0.0625),
        ("pixel_level_module.decoder.encoder.layers.0.fc1.weight", 0.0395),
        ("pixel_level_module.decoder.encoder.layers.0.fc2.weight", 0.0395),
        ("pixel_level_module.decoder.encoder.layers.0.fc1.bias", 0.0362),
        ("pixel_level_module.decoder.encoder.layers.0.fc2.bias", 0.0183),
        ("pixel_level_module.decoder.level_embed", 1.0),
        ("transformer_module.decoder.layers.0.self_attn.q_proj.weight", 0.0442),
        ("transformer_module.decoder.layers.0.cross_attn.in_proj_weight", 0.0442),
        ("transformer_module.decoder.layers.0.fc1.bias", 0.0361),
        ("transformer_module.decoder.layers.0.fc2.bias", 0.0126),
        ("transformer_module.decoder.mask_predictor.mask_embedder.0.0.weight", 0.0361),
        ("transformer_module.queries_features.weight", 1.0),
        ("transformer_module.queries_embedder.weight", 1.0),
        ("transformer_module.level_embed.weight", 1.0),
        ("class_predictor.weight", 0.0360),
        ("class_predictor.bias", 0.0344),
    ],
)
def test_reference_row_24_initialisation_is_the_originals(fresh_swin_t, name, std):
    for state in fresh_swin_t:
        tensor = state[name if name.startswith("class_predictor") else f"model.{name}"]
        # 5 standard errors of a standard deviation estimated from n values, uniform or normal
        assert abs(tensor.std().item() / std - 1) < 5 / math.sqrt(2 * tensor.numel()) + 0.005


@pytest.fixture(scope="module")
def fresh_swin_t():
    """State of a fresh model, and of one whose missing weights `from_pretrained` made, which is another code path."""
    swin_t = {"model_type": "swin", "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
    config = type(small_config())(backbone_config=swin_t, num_labels=133)
    torch.manual_seed(0)
    loaded = M2FForUniversalSegmentation.from_pretrained(None, config=config, state_dict={})
    return M2FForUniversalSegmentation(config).state_dict(), loaded.state_dict()


def test_reference_row_24_swin_starts_as_in_the_original(fresh_swin_t):
    """Attention 0.0261 over all layers and a table that is not zero; transformers has 0.0200 and 0."""
    for state in fresh_swin_t:
        projections = [
            x.flatten() for n, x in state.items() if n.endswith(("q_proj.weight", "k_proj.weight")) and "swin" in n
        ]
        tables = [x.flatten() for n, x in state.items() if n.endswith("relative_position_bias_table")]
        assert abs(torch.cat(projections).std().item() - 0.0261) < 2e-4
        assert abs(torch.cat(tables).std().item() - 0.0199) < 5e-4


def test_sampling_offsets_start_on_rays_and_attention_uniform(fresh_swin_t):
    for state in fresh_swin_t:
        prefix = "model.pixel_level_module.decoder.encoder.layers.0.self_attn."
        assert state[prefix + "sampling_offsets.weight"].abs().sum() == 0
        assert state[prefix + "attention_weights.weight"].abs().sum() == 0
        offsets = state[prefix + "sampling_offsets.bias"].view(8, 3, 4, 2)
        # head 0 looks right, head 2 down, head 3 down and left; point p at distance p + 1
        torch.testing.assert_close(offsets[0, 0], torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0]]), atol=1e-5, rtol=0)
        torch.testing.assert_close(offsets[2, 1, 0], torch.tensor([0.0, 1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(offsets[3, 2, 1], torch.tensor([-2.0, 2]), atol=1e-5, rtol=0)


def test_a_checkpoint_that_is_cut_off_is_an_error(tmp_path):
    model = small_model("resnet")
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    for length in (len(content) // 2, 100, 4, 0):
        weights.write_bytes(content[:length])
        with pytest.raises(OSError, match="damaged"):
            M2FForUniversalSegmentation.from_pretrained(tmp_path)


def test_a_foreign_checkpoint_is_an_error_that_lists_every_name(tmp_path):
    from safetensors.torch import load_file, save_file

    model = small_model("resnet")
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    state = load_file(weights)
    gone = ["model.transformer_module.level_embed.weight", "model.pixel_level_module.decoder.level_embed"]
    bent = "model.transformer_module.queries_features.weight"
    for name in gone:
        state.pop(name)
    state["something.else"] = torch.zeros(2)
    state[bent] = torch.zeros(3, 32)
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointMismatchError) as error:
        M2FForUniversalSegmentation.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    assert all(name in str(error.value) for name in [*gone, "something.else", "Missing (2)", "Unexpected (1)"])
    with pytest.raises(CheckpointMismatchError) as error:
        M2FForUniversalSegmentation.from_pretrained(tmp_path)
    assert all(name in str(error.value) for name in [*gone, "something.else", bent])
    M2FForUniversalSegmentation.from_pretrained(tmp_path, allow_partial=True, ignore_mismatched_sizes=True)


def test_a_checkpoint_without_heads_is_a_start_for_a_new_task(tmp_path):
    model = small_model("swin")
    model.model.save_pretrained(tmp_path / "base")
    started = M2FForUniversalSegmentation.from_pretrained(tmp_path / "base", num_labels=3)
    assert torch.equal(
        started.model.transformer_module.queries_features.weight,
        model.model.transformer_module.queries_features.weight,
    )
    model.save_pretrained(tmp_path / "full")
    M2FModel.from_pretrained(tmp_path / "full")
    other = M2FForUniversalSegmentation.from_pretrained(
        tmp_path / "full", id2label={0: "a", 1: "b"}, ignore_mismatched_sizes=True
    )
    assert other.class_predictor.out_features == 3 and other.criterion.empty_weight.tolist() == pytest.approx(
        [1, 1, 0.1]
    )


def test_class_weights_come_from_the_configuration_and_only_then_from_the_checkpoint(tmp_path, monkeypatch):
    """Files of transformers' and of the original's models hold the buffer `criterion.empty_weight`, into which people
    write weights by hand."""
    warnings = []
    monkeypatch.setattr("m2f.modeling_m2f.criterion.logger.warning", warnings.append)

    def loaded(**fields):
        warnings.clear()
        model = M2FForUniversalSegmentation.from_pretrained(tmp_path, **fields)
        return model.criterion.empty_weight.tolist(), model.config.class_weights

    small_model().save_pretrained(tmp_path)
    assert loaded() == (pytest.approx([1, 1, 1, 1, 1, 0.1]), None)
    weights = [1, 2, 3, 4, 5]
    assert loaded(class_weights=weights) == (pytest.approx([*weights, 0.1]), weights)
    assert not warnings
    assert loaded(no_object_weight=0.5) == (pytest.approx([1, 1, 1, 1, 1, 0.5]), None)
    assert "0.1" in warnings[0] and "0.5" in warnings[0]
    by_hand = small_model()
    by_hand.criterion.empty_weight[2] = 7
    by_hand.save_pretrained(tmp_path)
    assert loaded() == (pytest.approx([1, 1, 7, 1, 1, 0.1]), [1, 1, 7, 1, 1])
    assert len(warnings) == 1 and "class_weights" in warnings[0]
    assert loaded(class_weights=weights) == (pytest.approx([*weights, 0.1]), weights)
    by_hand.set_class_weights(weights)
    by_hand.save_pretrained(tmp_path)
    assert loaded() == (pytest.approx([*weights, 0.1]), weights) and not warnings
    with pytest.raises(ValueError, match="5 entries.*3 labels"):
        loaded(num_labels=3, ignore_mismatched_sizes=True)
    assert loaded(num_labels=3, class_weights=None, ignore_mismatched_sizes=True)[1] is None


@pytest.mark.skipif(os.name != "posix", reason="needs modes of files")
def test_saved_weights_may_be_read_by_whom_the_umask_lets(tmp_path):
    """safetensors writes files of mode 0600."""
    former = os.umask(0o027)
    try:
        small_model().save_pretrained(tmp_path)
        (tmp_path / "opened").write_text("")
    finally:
        os.umask(former)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o640}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors", "opened"]


@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_a_model_that_was_loaded_is_saved_with_the_same_configuration(tmp_path, backbone):
    """The files of a run that went on from a checkpoint are those of one that did not."""
    small_model(backbone).save_pretrained(tmp_path / "first")
    M2FForUniversalSegmentation.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "first" / "config.json").read_bytes()
