import pytest
import torch
from shapes_run import shapes_run
from test_checkpoint_store import disk_of

from m2f.training.checkpoint_store import CheckpointError
from m2f.training.run_folder import TrainingDiverged


def test_changed_options_are_said(tmp_path, capsys):
    shapes_run(tmp_path, max_steps=2).run()
    shapes_run(tmp_path, max_steps=3, learning_rate=5e-4)
    text = capsys.readouterr().err
    assert "other option than before: learning_rate 0.001 -> 0.0005" in text
    assert "other option than before: max_steps 2 -> 3" in text
    assert text.count("other") == 2


@pytest.mark.parametrize("resume", ["never", "missing"])
def test_resume_never_and_a_folder_that_is_not_there(tmp_path, resume):
    shapes_run(tmp_path, max_steps=2).run()
    words = "never would overwrite" if resume == "never" else "missing cannot be used: manifest.json is missing"
    with pytest.raises(CheckpointError, match=words):
        shapes_run(tmp_path, resume=resume if resume == "never" else str(tmp_path / resume))
    assert shapes_run(tmp_path / "new", resume="never").progress.step == 0


@pytest.mark.parametrize("what", ["checkpoint", "model"])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, what):
    run = shapes_run(tmp_path, max_steps=2)
    run.run()
    former = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        run.state.plain_model.class_predictor.bias[0] = float("nan")
    run.progress.step = 3
    with pytest.raises(TrainingDiverged, match="class_predictor.bias.*is whole"):
        run.save_checkpoint() if what == "checkpoint" else run.folder.save_best(run.state, "AP", {})
    assert (tmp_path / "model.safetensors").read_bytes() == former
    assert not (tmp_path / "checkpoints" / "step-00000003").exists()


def test_a_full_disk_keeps_the_best_model(tmp_path):
    run = shapes_run(tmp_path, max_steps=2)
    run.run()
    former = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        run.state.plain_model.class_predictor.bias.add_(1)
    with pytest.raises(CheckpointError, match="the model of step 2 cannot be written"), disk_of(100_000):
        run.folder.save_best(run.state, "AP", {"AP": 1.0})
    assert (tmp_path / "model.safetensors").read_bytes() == former
    assert not (tmp_path / ".writing-model").exists()
