"""Same weights, same logits as transformers' Mask2Former, and checkpoints that fit both ways."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import BACKBONES, random_targets
from stock_models import transformers_model
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation


@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES)
def test_same_weights_give_the_same_logits_and_checkpoints_fit_both_ways(backbone, tmp_path):
    theirs = transformers_model(backbone)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = M2FForUniversalSegmentation.from_pretrained(tmp_path / "theirs").eval()
    pixels = torch.randn(2, 3, 128, 160)
    expected, actual = (model(pixels, output_auxiliary_logits=True) for model in (theirs, ours))
    for name in ("class_queries_logits", "masks_queries_logits"):
        torch.testing.assert_close(actual[name], expected[name], atol=1e-4, rtol=0)
        for mine, other in zip(actual.auxiliary_logits, expected.auxiliary_logits, strict=True):
            torch.testing.assert_close(mine[name], other[name], atol=1e-4, rtol=0)

    ours.save_pretrained(tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    (tmp_path / "ours" / "config.json").write_text(json.dumps({**config, "model_type": "mask2former"}))
    back, report = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    state = theirs.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.state_dict().items())


def test_files_of_earlier_versions_load_without_a_complaint(tmp_path, caplog):
    """Files on the Hub hold the index of Swin's position bias, a constant, and lack the norm that nothing uses."""
    theirs = transformers_model("swin")
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state = {name: tensor for name, tensor in state.items() if "swin.layernorm" not in name}
    for name in [name for name in state if name.endswith("relative_position_bias_table")]:
        state[name.replace("bias_table", "index")] = torch.zeros(49, 49, dtype=torch.long)
    assert sum("relative_position_index" in name for name in state) == 4
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    logging.getLogger("transformers").addHandler(caplog.handler)
    ours = M2FForUniversalSegmentation.from_pretrained(tmp_path).eval()
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected, actual = (model(pixels).masks_queries_logits for model in (theirs, ours))
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_loss_is_that_of_transformers_on_average():
    """Points are random; over 30 draws the means agree within 4 standard errors."""
    theirs = transformers_model("resnet")
    ours = M2FForUniversalSegmentation.from_pretrained(
        None, config=_as_m2f(theirs.config), state_dict=theirs.state_dict()
    ).eval()
    pixels = torch.randn(2, 3, 64, 64)
    masks, classes = random_targets([(64, 64)] * 2, [3, 2])
    totals = []
    for model in (theirs, ours):
        torch.manual_seed(0)
        with torch.no_grad():
            labels = {"mask_labels": [m.float() for m in masks], "class_labels": classes}
            totals.append(torch.stack([model(pixels, **labels).loss.squeeze() for _ in range(30)]))
    error = (totals[0].var() / 30 + totals[1].var() / 30).sqrt()
    assert abs(totals[0].mean() - totals[1].mean()) < 4 * error


def _as_m2f(config: Mask2FormerConfig):
    return M2FForUniversalSegmentation.config_class.from_dict(config.to_dict())
