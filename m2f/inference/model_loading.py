"""The model and the image processor of a checkpoint, ready to predict."""

import os
from typing import Any

import torch
from transformers.utils import cached_file, logging

from m2f.checkpoints.bundled_checkpoint import checkpoint_location
from m2f.checkpoints.checkpoint_config import read_config
from m2f.image_processing.image_processing_m2f import TASKS, M2FImageProcessor
from m2f.modeling_m2f.checkpoint_report import CheckpointMismatchError
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

logger = logging.get_logger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    checkpoint: str | os.PathLike | None,
    task: str | None,
    device: torch.device,
    dtype: torch.dtype,
    **processor_fields: Any,
) -> tuple[M2FForUniversalSegmentation, M2FImageProcessor]:
    """A checkpoint of m2f or of transformers' mask2former, in evaluation mode.

    The latter does not say what it was trained for: it is taken for `task`, or for panoptic, with a warning.

    Args:
        checkpoint: folder, Hub id or a bundled checkpoint's name; None: the default one of these.
        task: that is wanted.
        processor_fields: settings of the image processor in place of the checkpoint's.

    Raises:
        OSError: it cannot be found or read.
        ValueError: it is of another kind, of a newer version of m2f, or its tensors are not those of its
            configuration.
    """
    name = checkpoint_location(checkpoint)
    fields = read_config(name)
    trained_for = fields.get("task") or _assumed_task(name, task)
    try:
        # The files' own type by default, which may be float16 to save space.
        model = M2FForUniversalSegmentation.from_pretrained(name, dtype=dtype)
    except CheckpointMismatchError as error:
        raise ValueError(str(error)) from error
    things = model.config.thing_label_ids if trained_for == "panoptic" else None
    settings = {"task": trained_for, "thing_label_ids": things, **processor_fields}
    return model.eval().to(device), _processor(name, settings)


def find_device(name: str | torch.device | None) -> torch.device:
    """The device of a name such as "cpu" or "cuda:1"; without a name the GPU, or the CPU if there is none.

    Raises:
        ValueError: there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}; use cpu, cuda, cuda:1 and the like") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device {name}: {torch.cuda.device_count()} CUDA devices were found; use cpu")
    try:
        torch.empty(0, device=device)
    # The errors of a device that PyTorch knows and this machine or build does not have.
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(f"device {name} cannot be used here ({reason}); use cpu") from error
    return device


def find_dtype(name: str | torch.dtype | None) -> torch.dtype:
    """The type of a name: float32 (the default), bfloat16 or float16.

    Raises:
        ValueError: another name.
    """
    if name is None:
        return torch.float32
    dtype = DTYPES.get(str(name).removeprefix("torch."))
    if dtype is None:
        raise ValueError(f"unknown dtype {name!r}; use {', '.join(DTYPES)}")
    return dtype


def tasks_of(trained_for: str, has_things: bool) -> tuple[str, ...]:
    """What a model that is trained for a task can predict, that task first."""
    if trained_for != "panoptic":
        return (trained_for,)
    return TASKS if has_things else tuple(task for task in TASKS if task != "instance")


def choose_task(wanted: str | None, trained_for: str, has_things: bool) -> str:
    """The wanted task; the one that the model was trained for if none is.

    Raises:
        ValueError: no such task, or the model cannot do it.
    """
    possible = tasks_of(trained_for, has_things)
    if wanted is None:
        return possible[0]
    if wanted not in possible:
        raise ValueError(
            f"task {wanted!r} is not possible: a checkpoint trained for {trained_for}"
            f"{'' if has_things else ' without things'} predicts {', '.join(possible)}"
        )
    return wanted


def _assumed_task(name: str, task: str | None) -> str:
    if task is not None:
        return task
    logger.warning(f"{name} does not say what it was trained for; taken as panoptic. Give the task otherwise.")
    return "panoptic"


def _processor(name: str, settings: dict[str, Any]) -> M2FImageProcessor:
    if cached_file(name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False) is None:
        logger.warning(
            f"{name} has no image processor; a new one resizes to 800 / 1333 pixels and normalises as for ImageNet"
        )
        return M2FImageProcessor(**settings)
    return M2FImageProcessor.from_pretrained(name, **settings)
