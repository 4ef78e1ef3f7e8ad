"""Experiment trackers, through Accelerate: what a run is told beside its numbers, and pictures of its predictions."""

from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

from m2f.training.option_values import plain_values
from m2f.training.training_options import TrainingOptions

PROJECT = "m2f"
PICTURES = "predictions"


def begin_trackers(accelerator: Accelerator, options: TrainingOptions, about: dict[str, Any]):
    """Starts the trackers of `options.log_with`, with the options and `about` as the run's settings. The run is called
    after the output folder, into which go the files of TensorBoard and W&B; a run that goes on begins a new entry of
    the same name.

    Raises:
        ValueError: a tracker cannot be started.
    """
    name = Path(options.output).resolve().name
    settings = {
        "wandb": {"name": name, "dir": options.output},
        "mlflow": {"run_name": name},
        "trackio": {"name": name},
    }
    config = {"name": name, **about, **plain_values(options)}
    try:
        accelerator.init_trackers(
            PROJECT,
            config={key: _plain(value) for key, value in config.items()},
            init_kwargs={tracker: settings[tracker] for tracker in options.log_with if tracker in settings},
        )
    except Exception as error:  # each tracker has its own, such as for a login that is missing
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(
            f"the trackers {', '.join(options.log_with)} cannot be started: {reason}; set up the one that this is of, "
            "or leave it out of --log-with"
        ) from error


def track_picture(accelerator: Accelerator, path: Path, step: int):
    """Shows a picture in the trackers that have a place for pictures: TensorBoard, W&B, SwanLab, MLflow, Trackio."""
    if not path.is_file():
        return
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            pixels = np.asarray(Image.open(path).convert("RGB"))
            tracker.log_images({PICTURES: pixels[None]}, step=step, dataformats="NHWC")
        elif tracker.name in ("wandb", "swanlab"):
            tracker.log_images({PICTURES: [Image.open(path)]}, step=step)
        elif tracker.name == "mlflow":
            tracker.log_artifact(str(path), PICTURES)
        elif tracker.name == "trackio":
            import trackio

            tracker.log({PICTURES: trackio.Image(str(path))}, step=step)


def _plain(value: Any) -> int | float | str | None:
    """As every tracker takes it: TensorBoard knows no lists."""
    return value if value is None or isinstance(value, int | float | str) else ", ".join(map(str, value))
