"""Trackers that are installed, offline: what they wrote is read back. `scripts/test_integrations.sh` installs them."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from shapes_run import fresh_accelerate, shapes_run

from m2f.training.trackers import begin_trackers, track_picture
from m2f.training.training_options import TrainingOptions


def tracked_run(folder, tracker, **fields):
    fresh_accelerate()
    shapes_run(folder, validation=True, max_steps=2, log_every=1, samples=1, log_with=(tracker,), **fields).run()


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracked_run(tmp_path / "cells", "tensorboard", mask_annealing=(0.2, 1.0))
    events = EventAccumulator(str(tmp_path / "cells" / "m2f"), size_guidance={"images": 0})
    events.Reload()
    losses = events.Scalars("loss")
    assert [entry.step for entry in losses] == [1, 2] and losses[0].value > 0
    assert "step" not in events.Tags()["scalars"]
    assert [entry.step for entry in events.Scalars("eval_AP")] == [2]
    (picture,) = events.Images("predictions")
    assert picture.step == 2 and picture.height > 10
    (settings,) = (tmp_path / "cells" / "m2f").glob("*/hparams.yml")
    text = settings.read_text()
    assert "name: cells" in text and "learning_rate: 0.001" in text and "backbone_type: " in text
    assert "mask_annealing: 0.2, 1.0\n" in text and "device: null" in text


def test_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CACHE_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    tracked_run(tmp_path / "cells", "wandb")
    (file,) = (tmp_path / "cells" / "wandb").glob("offline-run-*/*.wandb")
    content = file.read_bytes()  # records of protobuf, in which text is as it is
    name = b"\x05cells"  # with its length: a text of its own, and no part of a path
    known = (name, b"learning_rate", b"loss_dice", b"eval_AP", b"backbone_type", b"images/separated")
    assert [text for text in known if text not in content] == []
    assert list(file.parent.glob("files/media/images/predictions_2_*.png"))  # the step


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlflow")
    mlflow.set_tracking_uri(f"file://{tmp_path}/mlflow")
    tracked_run(tmp_path / "cells", "mlflow")
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.run_name == "cells" and run.data.params["learning_rate"] == "0.001"
    assert run.data.metrics["loss"] > 0 and "eval_AP" in run.data.metrics
    client = mlflow.MlflowClient()
    for name, steps in {"loss": [1, 2], "eval_AP": [2]}.items():
        assert [entry.step for entry in client.get_metric_history(run.info.run_id, name)] == steps
    (picture,) = client.list_artifacts(run.info.run_id, "predictions")
    assert picture.path == "predictions/step-00000002.png"


def test_trackio(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # which is read when it is imported
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    tracked_run(tmp_path / "cells", "trackio")
    (run,) = trackio.Api().runs("m2f")
    assert run.name == "cells" and run.config["learning_rate"] == 0.001 and run.config["backbone_type"]
    rows = SQLiteStorage.get_logs("m2f", "cells")
    steps = {name: [row["step"] for row in rows if name in row] for name in ("loss", "eval_AP", "predictions")}
    assert steps == {"loss": [1, 2], "eval_AP": [2], "predictions": [2]}
    assert list((tmp_path / "trackio").rglob("*.png"))


def test_a_tracker_that_cannot_start_is_said_in_a_line(tmp_path):
    """Such as MLflow without a server, or W&B without a login."""
    start = Mock(side_effect=RuntimeError("No API key.\n  Log in first."))
    options = TrainingOptions(data="x", output=str(tmp_path / "cells"), log_with=("wandb",))
    with pytest.raises(ValueError, match="^the trackers wandb cannot be started: No API key. Log in first; set up"):
        begin_trackers(SimpleNamespace(init_trackers=start), options, {})


def test_an_evaluation_without_a_picture(tmp_path):
    """As with --samples 0."""
    tracker = Mock()
    tracker.name = "tensorboard"
    track_picture(SimpleNamespace(trackers=[tracker]), tmp_path / "none.png", 1)
    tracker.log_images.assert_not_called()
