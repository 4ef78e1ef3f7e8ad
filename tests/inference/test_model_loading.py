"""Checkpoints, devices and types: what fits, and one clear message for what does not."""

import json

import pytest
import torch
from small_models import small_config, small_model
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.inference.model_loading import choose_task, find_device, find_dtype, load_model
from m2f.inference.segmenter import Segmenter

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    small_model(task="panoptic", thing_label_ids=[0, 1]).half().save_pretrained(folder)
    M2FImageProcessor(task="panoptic", thing_label_ids=[0, 1], panoptic_threshold=0.3).save_pretrained(folder)
    return folder


def rewritten(checkpoint, tmp_path, **fields):
    """A copy whose config.json has other fields."""
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **fields}))
    return tmp_path


def test_weights_are_float32_unless_told(checkpoint):
    """The checkpoint is stored in float16."""
    model, processor = load_model(checkpoint, None, CPU, torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32} and not model.training
    assert (processor.task, processor.thing_label_ids, processor.panoptic_threshold) == ("panoptic", [0, 1], 0.3)
    assert load_model(checkpoint, None, CPU, torch.bfloat16)[0].dtype == torch.bfloat16


def test_segmenter_of_a_checkpoint(checkpoint):
    segmenter = Segmenter.from_pretrained(checkpoint, "semantic", "cpu", size={"shortest_edge": 64}, batch_size=3)
    assert (segmenter.task, segmenter.batch_size, segmenter.processor.size["shortest_edge"]) == ("semantic", 3, 64)
    assert Segmenter.from_pretrained(checkpoint, device="cpu").processor.panoptic_threshold == 0.3


def test_checkpoint_of_transformers(tmp_path, caplog):
    fields = small_config().to_dict()
    del fields["task"], fields["thing_label_ids"], fields["model_type"]
    Mask2FormerForUniversalSegmentation(Mask2FormerConfig(**fields)).save_pretrained(tmp_path)
    model, processor = load_model(tmp_path, "semantic", CPU, torch.float32)
    assert processor.task == "semantic"
    assert load_model(tmp_path, None, CPU, torch.float32)[1].task == "panoptic"


def test_missing_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint folder"):
        load_model(tmp_path / "missing", None, CPU, torch.float32)
    with pytest.raises(FileNotFoundError, match="it has no config.json"):
        load_model(tmp_path, None, CPU, torch.float32)


def test_checkpoints_that_do_not_fit(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="model_type 'bert'"):
        load_model(rewritten(checkpoint, tmp_path, model_type="bert"), None, CPU, torch.float32)
    with pytest.raises(ValueError, match="does not hold this model"):
        load_model(rewritten(checkpoint, tmp_path, num_queries=9), None, CPU, torch.float32)


def test_versions(checkpoint, tmp_path, monkeypatch):
    newer = rewritten(checkpoint, tmp_path, m2f_version="1.3.0")
    monkeypatch.setattr("m2f.__version__", "1.2.9")
    with pytest.raises(ValueError, match="written by m2f 1.3.0, and m2f 1.2.9 is installed"):
        load_model(newer, None, CPU, torch.float32)
    monkeypatch.setattr("m2f.__version__", "1.3.0.dev1")
    load_model(newer, None, CPU, torch.float32)
    load_model(rewritten(checkpoint, tmp_path, m2f_version="1.3.9"), None, CPU, torch.float32)  # corrects errors alone
    with pytest.raises(ValueError, match="unreadable m2f_version: 'x'"):
        load_model(rewritten(checkpoint, tmp_path, m2f_version="x"), None, CPU, torch.float32)


def test_devices():
    assert find_device("cpu") == find_device(CPU) == CPU
    assert find_device(None).type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        find_device("gpu")
    with pytest.raises(ValueError, match="there is no device cuda:99"):
        find_device("cuda:99")
    with pytest.raises(ValueError, match="cannot be used here"):
        find_device("hpu")  # of Intel's Gaudi, which needs a package of its own


def test_types():
    assert find_dtype(None) == find_dtype("float32") == torch.float32
    assert find_dtype(torch.bfloat16) == torch.bfloat16
    with pytest.raises(ValueError, match="unknown dtype 'int8'"):
        find_dtype("int8")


def test_tasks():
    assert (
        choose_task(None, "panoptic", True) == "panoptic" and choose_task("semantic", "panoptic", False) == "semantic"
    )
    with pytest.raises(ValueError, match="trained for instance predicts instance"):
        choose_task("panoptic", "instance", True)
