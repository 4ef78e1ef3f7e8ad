"""A run whose backbone is frozen or has adapters: what changes, what is saved, and that it goes on as it began."""

import json
import sys

import pytest
import torch
from accelerate.state import AcceleratorState
from backbone_cases import backbone_fields
from shapes_dataset import shapes_model, shapes_options
from shapes_run import shapes_run
from small_models import small_model
from test_training_run import rows
from transformers import AutoBackbone

from m2f.cli import main
from m2f.commands.train import adapter_line
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.backbone_training import check_backbone_training
from m2f.training.checkpoint_store import CheckpointError
from m2f.training.run_folder import find_checkpoint
from m2f.training.starting_point import starting_model

VIT = backbone_fields("dinov3_vit")
ENCODER = "model.pixel_level_module.encoder."


@pytest.fixture
def vit(monkeypatch):
    """Runs start from a small plain Vision Transformer with dropped paths."""
    fields = {"backbone_config": {**VIT, "drop_path_rate": 0.5}, "encoder_layers": 1, "num_queries": 4}
    monkeypatch.setattr("shapes_run.shapes_model", lambda: shapes_model(**fields))


class Killed(Exception):
    """In the place of a signal that nobody can catch."""


def killed_after(run, step: int):
    """Ends a run between two checkpoints."""
    after_step = run._after_step

    def stop(signals):
        stopped_by = after_step(signals)
        if run.progress.step == step:
            raise Killed
        return stopped_by

    run._after_step = stop
    with pytest.raises(Killed):
        run.run()


def test_a_run_with_adapters_average_and_annealing_goes_on_bit_for_bit(vit, tmp_path, capsys, monkeypatch):
    peft = pytest.importorskip("peft")
    fields = {"lora": 2, "layer_decay": 0.8, "ema_decay": 0.5, "mask_annealing": (0.2, 1.0), "max_steps": 5}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run = shapes_run(whole, **fields)
    before = {name: p.detach().clone() for name, p in run.state.plain_model.named_parameters()}
    run.run()
    model = run.state.plain_model
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {name for name in changed if ENCODER in name} == {name for name in before if ".lora_" in name}
    assert len(run.state.optimizer.optimizer.state) == len([p for p in model.parameters() if p.requires_grad])
    assert model.config.masked_layers == 1  # of two; the last one's share is not 0 before the last step
    killed_after(shapes_run(killed, **fields), 3)
    shapes_run(killed, **fields).run()
    assert rows(killed) == rows(whole)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    for name in ("optimizer.safetensors", "weight_average.safetensors"):
        step = "checkpoints/step-00000005"
        assert (killed / step / name).read_bytes() == (whole / step / name).read_bytes()

    # PEFT itself reads the adapters onto the backbone without them.
    saved = M2FForUniversalSegmentation.from_pretrained(whole)
    encoder, pixels = saved.model.pixel_level_module.encoder, torch.randn(1, 3, 64, 64)
    base = AutoBackbone.from_config(saved.config.backbone_config).eval()
    base.load_state_dict(
        {n.replace(".base_layer.", "."): t for n, t in encoder.state_dict().items() if "lora" not in n}
    )
    with torch.no_grad():
        expected = encoder(pixels).feature_maps[0]
        without = base(pixels).feature_maps[0]
        wrapped = peft.PeftModel.from_pretrained(base, whole / "adapter")
        torch.testing.assert_close(wrapped(pixels).feature_maps[0], expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(without, expected, rtol=1e-5, atol=1e-6)
    line = adapter_line(saved, whole)
    size = (whole / "adapter/adapter_model.safetensors").stat().st_size
    assert f"{size / 1e6:.2f} MB" in line and "16 layers" in line

    capsys.readouterr()
    assert main(["merge", str(whole), str(tmp_path / "merged"), "--dry-run"]) == 0
    assert main(["merge", str(whole), str(tmp_path / "merged")]) == 0
    assert "model without adapters" in capsys.readouterr().out
    merged = M2FForUniversalSegmentation.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        both = (saved(pixels).masks_queries_logits, merged(pixels).masks_queries_logits)
    torch.testing.assert_close(*both, rtol=0, atol=1e-5)
    assert M2FImageProcessor.from_pretrained(tmp_path / "merged").task == "instance"
    assert json.loads((tmp_path / "merged/results.json").read_text())["step"] == 5
    assert (tmp_path / "merged/training_options.yaml").read_bytes() == (whole / "training_options.yaml").read_bytes()
    for target, message in (("merged", "is not an empty folder"), ("merged/results.json/again", "json is no folder")):
        assert main(["merge", str(whole), str(tmp_path / target)]) == 2
        assert message in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "peft", None)
        assert main(["merge", str(whole), str(tmp_path / "again"), "--dry-run"]) == 2
        assert 'pip install "m2f[peft]"' in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "merged"), str(tmp_path / "again")]) == 2
    assert "has no LoRA adapters" in capsys.readouterr().err

    with pytest.raises(ValueError, match="LoRA adapters of rank 2.*others .--lora 4.*m2f merge"):
        check_backbone_training(shapes_options(tmp_path, lora=4), saved.config)
    with pytest.raises(ValueError, match="is to have none"):
        check_backbone_training(shapes_options(tmp_path), saved.config)


def test_a_frozen_backbone_stands_still_and_is_no_part_of_the_optimizer(vit, tmp_path):
    run = shapes_run(tmp_path, freeze_backbone=True, max_steps=2)
    model = run.state.plain_model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run.run()
    with pytest.raises(CheckpointError, match="freeze_backbone True, and now it is False.*--output"):
        shapes_run(tmp_path, max_steps=2)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and not any(name.startswith(ENCODER) for name in changed)
    assert any("feature_pyramid" in name for name in changed)
    assert {id(p) for p in run.state.optimizer.optimizer.state} == {
        id(p) for name, p in model.named_parameters() if ENCODER not in name
    }
    level = model.train().model.pixel_level_module
    pixels = torch.randn(1, 3, 64, 64)
    maps = level._maps_of_backbone(pixels)  # with half of the paths dropped, if it were in training mode
    assert not level.encoder.training and torch.equal(level._maps_of_backbone(pixels)[0], maps[0])
    assert level.feature_maps(pixels)[0].requires_grad and level.feature_pyramid.training


def test_batch_norm_of_a_frozen_backbone_keeps_its_statistics():
    model = small_model("resnet", backbone_frozen_batch_norm=False)
    encoder = model.model.pixel_level_module.encoder
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    model.freeze_backbone()
    model.train()(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(buffer, before[name]) for name, buffer in encoder.named_buffers())


@pytest.mark.parametrize(
    ("fields", "backbone", "words"),
    [
        ({"lora": 4, "lora_targets": ("qkv",)}, VIT, "'qkv' matches no layer of this DINOv3ViTBackbone"),
        ({"layer_decay": 0.8}, backbone_fields("hgnet_v2"), "a hgnet_v2 does not tell"),
    ],
)
def test_what_the_backbone_cannot_is_an_error_before_weights_are_loaded(fields, backbone, words, tmp_path, capsys):
    """The weights of the checkpoint are no weights."""
    pytest.importorskip("peft")
    AcceleratorState._reset_state(reset_partial_state=True)
    folder = tmp_path / "start"
    config = shapes_model(encoder_layers=1).config.to_dict() | {"backbone_config": backbone}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"no weights")
    options = shapes_options(tmp_path / "run", model=str(folder), **fields)
    with pytest.raises(ValueError, match=words):
        starting_model(options, None, find_checkpoint(options, print))
