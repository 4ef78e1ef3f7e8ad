"""The model and the image processor of a checkpoint, ready to predict."""

import os
import sys
from typing import Any

import torch
from packaging.version import InvalidVersion, Version
from transformers import PretrainedConfig
from transformers.utils import cached_file, logging

from m2f.image_processing.image_processing_m2f import TASKS, M2FImageProcessor
from m2f.modeling_m2f.checkpoint_report import CheckpointMismatchError
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

logger = logging.get_logger(__name__)

# What is used where no checkpoint is named; None: one must be named.
DEFAULT_CHECKPOINT: str | None = None
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_KINDS = ("m2f", "mask2former")
# In config.json: the version of m2f that wrote it.
_VERSION_FIELD = "m2f_version"


def load_model(
    checkpoint: str | os.PathLike,
    task: str | None,
    device: torch.device,
    dtype: torch.dtype,
    **processor_fields: Any,
) -> tuple[M2FForUniversalSegmentation, M2FImageProcessor]:
    """A checkpoint of m2f or of transformers' mask2former, in evaluation mode.

    The latter does not say what it was trained for: it is taken for `task`, or for panoptic, with a warning.

    Args:
        checkpoint: folder or Hub id.
        task: that is wanted.
        processor_fields: settings of the image processor in place of the checkpoint's.

    Raises:
        OSError: it cannot be found or read.
        ValueError: it is of another kind, of a newer version of m2f, or its tensors are not those of its
            configuration.
    """
    name = os.fspath(checkpoint)
    fields = _config_fields(name)
    _check_version(name, fields.get(_VERSION_FIELD))
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


def _config_fields(name: str) -> dict[str, Any]:
    is_path = os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1
    if not os.path.isdir(name) and (is_path or os.path.exists(name)):
        raise FileNotFoundError(f"there is no checkpoint folder {name}")
    if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "config.json")):
        raise FileNotFoundError(f"the folder {name} is no checkpoint: it has no config.json")
    fields, _ = PretrainedConfig.get_config_dict(name)
    kind = fields.get("model_type")
    if kind not in _KINDS:
        raise ValueError(f"{name} is a checkpoint of model_type {kind!r}; {' or '.join(_KINDS)} is needed")
    return fields


def _check_version(name: str, written_by: str | None):
    """Raise ValueError where a checkpoint was written by a newer version; one that only corrects errors is none."""
    if written_by is None:
        return
    # Read from the package itself: the library imports from files only.
    installed = sys.modules["m2f"].__version__
    try:
        newer = Version(written_by).release[:2] > Version(installed).release[:2]
    except InvalidVersion as error:
        raise ValueError(f"the config.json of {name} has an unreadable {_VERSION_FIELD}: {written_by!r}") from error
    if newer:
        raise ValueError(
            f"{name} was written by m2f {written_by}, and m2f {installed} is installed; install that version or a "
            "later one"
        )


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
