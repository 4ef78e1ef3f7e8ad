"""`m2f convert`, in all its directions. Logits are the golden files' of the original."""

import json
import logging
import pickle

import numpy as np
import pytest
import torch
from golden_models import golden_pixels, load_golden
from original_checkpoints import fields_of, original_weights, write_original
from small_models import small_model
from stock_models import transformers_model
from transformers import AutoModelForUniversalSegmentation, Mask2FormerForUniversalSegmentation
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from m2f.cli import main
from m2f.hub.checkpoint_conversion import convert_checkpoint
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation


@pytest.fixture
def warnings_of_transformers(caplog):
    logging.getLogger("transformers").addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    logging.getLogger("transformers").removeHandler(caplog.handler)


@torch.no_grad()
@pytest.mark.parametrize(("name", "ending"), [("mini_swin", ".pkl"), ("mini_r18", ".pth")])
def test_golden_logits_survive_conversion_to_us_and_on_to_transformers(
    name, ending, tmp_path, warnings_of_transformers
):
    golden, meta = load_golden(name)
    source = write_original(tmp_path / f"model_final{ending}", original_weights(name))
    assert main(["convert", str(source), str(tmp_path / "ours"), "--task", "semantic"]) == 0
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs")]) == 0
    ours = M2FForUniversalSegmentation.from_pretrained(tmp_path / "ours").eval()
    theirs = AutoModelForUniversalSegmentation.from_pretrained(tmp_path / "theirs").eval()
    assert type(theirs) is Mask2FormerForUniversalSegmentation
    # transformers vouches for Swin alone in this model; of the weights nothing is said.
    assert [message for message in warnings_of_transformers() if not message.startswith("Backbone resnet")] == []
    for model in (ours, theirs):
        outputs = model(golden_pixels(golden, meta))
        for key, logits in (
            ("pred_logits", outputs.class_queries_logits),
            ("pred_masks", outputs.masks_queries_logits),
        ):
            np.testing.assert_allclose(logits[0].numpy(), golden[key], atol=1e-4, rtol=0)


def test_video_weights_are_refused(tmp_path):
    source = write_original(tmp_path / "model.pth", original_weights("mini_r18", 40))
    with pytest.raises(ValueError, match="video models .*segment clips"):
        convert_checkpoint(source, tmp_path / "ours")
    convert_checkpoint(source, tmp_path / "ours", dataset="none", task="instance")


class Attack:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.target}",)


def test_malicious_pickle_is_refused_without_running(tmp_path, capsys):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": Attack(tmp_path / "written")}))
    assert main(["convert", str(tmp_path / "model.pkl"), str(tmp_path / "ours")]) == 2
    assert "only NumPy arrays are admitted" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["model.pkl"]
    pickle.loads((tmp_path / "model.pkl").read_bytes())  # the attack is one
    assert (tmp_path / "written").exists()


def test_other_architectures_are_refused_with_their_names(tmp_path):
    source = write_original(tmp_path / "model.pth", {"backbone.fpn.weight": torch.ones(2), "head.b": torch.ones(1)})
    with pytest.raises(ValueError, match="2 of 2 names are not of the original .*: backbone.fpn.weight, head.b"):
        convert_checkpoint(source, tmp_path / "ours")
    weights = original_weights("mini_r18")
    missing = [name for name in weights if "transformer_ffn_layers.2.linear1" in name]
    source = write_original(tmp_path / "cut.pth", {k: v for k, v in weights.items() if k not in missing})
    with pytest.raises(ValueError, match="layers.2.fc1.weight"):
        convert_checkpoint(source, tmp_path / "ours", task="semantic")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "detr", "architectures": ["DetrForX"]}')
    with pytest.raises(ValueError, match=r"model_type 'detr' \(DetrForX\)"):
        convert_checkpoint(tmp_path / "other", tmp_path / "ours")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no config.json"):
        convert_checkpoint(tmp_path / "empty", tmp_path / "ours")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        convert_checkpoint(source, tmp_path / "other")
    assert not (tmp_path / "ours").exists()


def test_transformers_checkpoint_becomes_ours_and_returns_with_every_weight(tmp_path):
    theirs = transformers_model("swin")
    theirs.config.id2label = {i: f"thing {i}" for i in range(5)}
    theirs.save_pretrained(tmp_path / "theirs")
    processor = {"image_processor_type": "Mask2FormerImageProcessor", "size": {"height": 64, "width": 96}}
    (tmp_path / "theirs" / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ValueError, match="give --task"):
        convert_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    convert_checkpoint(tmp_path / "theirs", tmp_path / "ours", task="instance")
    assert (fields_of(tmp_path / "ours")["task"], fields_of(tmp_path / "ours")["model_type"]) == ("instance", "m2f")
    assert dict(M2FImageProcessor.from_pretrained(tmp_path / "ours").size) == {"height": 64, "width": 96}
    convert_checkpoint(tmp_path / "ours", tmp_path / "back")
    back, report = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    state = theirs.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.state_dict().items())
    convert_checkpoint(tmp_path / "back", tmp_path / "again")
    for name in ("config.json", "preprocessor_config.json"):
        assert fields_of(tmp_path / "again", name) == fields_of(tmp_path / "ours", name)


def test_stock_processor_of_transformers_loads(tmp_path):
    small_model("swin").save_pretrained(tmp_path / "ours")
    size = {"shortest_edge": 64, "longest_edge": 96}
    M2FImageProcessor(size=size, tile=64, tile_overlap=16).save_pretrained(tmp_path / "ours")
    convert_checkpoint(tmp_path / "ours", tmp_path / "theirs")
    assert not {"tile", "tile_overlap"} & set(fields_of(tmp_path / "theirs", "preprocessor_config.json"))
    processor = AutoImageProcessor.from_pretrained(tmp_path / "theirs")
    assert type(processor).__name__.startswith("Mask2FormerImageProcessor")
    inputs = processor(images=np.zeros((80, 100, 3), np.uint8), return_tensors="pt")
    assert inputs["pixel_values"].shape[-2:] == (64, 96)
