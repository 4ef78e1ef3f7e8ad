"""The config.json of a checkpoint, read before its weights: whether it is one that this version can use."""

import os
import reprlib
import sys
from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from packaging.version import InvalidVersion, Version
from transformers import PretrainedConfig

from m2f.checkpoints.cached_checkpoints import not_found_advice
from m2f.configuration.configuration_m2f import VERSION_FIELD

_KINDS = ("m2f", "mask2former")


def read_config(name: str) -> dict[str, Any]:
    """The fields of the config.json of a checkpoint of m2f or of transformers' mask2former.

    Args:
        name: folder or Hub id.

    Raises:
        OSError: it cannot be found or read.
        ValueError: it is of another kind, or of a newer version of m2f.
    """
    is_path = os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1
    if not os.path.isdir(name) and (is_path or os.path.exists(name)):
        raise FileNotFoundError(f"there is no checkpoint folder {name}")
    if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "config.json")):
        raise FileNotFoundError(f"the folder {name} is no checkpoint: it has no config.json")
    try:
        fields, _ = PretrainedConfig.get_config_dict(name)
    except OSError as error:
        if os.path.isdir(name):
            raise
        raise OSError(f"{_why_not_found(name, error)}; {not_found_advice(name, _KINDS)}") from error
    except RecursionError as error:
        raise ValueError(f"the config.json of {name} has too many brackets in each other; get it again") from error
    if not isinstance(fields, dict):
        raise ValueError(f"the config.json of {name} holds no fields, but a {type(fields).__name__}")
    kind, architectures = fields.get("model_type"), fields.get("architectures")
    if kind not in _KINDS:
        classes = f" ({', '.join(map(str, architectures))[:200]})" if isinstance(architectures, list) else ""
        kinds = " or ".join(_KINDS)
        raise ValueError(f"{name} is a checkpoint of model_type {reprlib.repr(kind)}{classes}; {kinds} is needed")
    _check_version(name, fields.get(VERSION_FIELD))
    return fields


def input_channels(fields: Mapping[str, Any]) -> int:
    """Of the images that a model takes.

    Args:
        fields: of its config.json.
    """
    backbone = fields.get("backbone_config")
    channels = backbone.get("num_channels") if isinstance(backbone, dict) else None
    return channels if isinstance(channels, int) else 3


def check_channels(name: str, model_channels: int, processor_channels: int):
    """Raise ValueError unless a checkpoint's model takes the images that its processor gives."""
    if model_channels != processor_channels:
        raise ValueError(
            f"{name}: the model takes images of {model_channels} channels (num_channels of backbone_config in its "
            f"config.json), and its image processor gives {processor_channels} (num_channels in "
            "preprocessor_config.json); correct the file that is wrong"
        )


def _why_not_found(name: str, error: OSError) -> str:
    """Of a name that is no folder here."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return (
            f"{name} is on the Hub for those who have access alone; ask for it there, and log in with `hf auth login`"
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return f"there is no folder {name} here, and no such model on the Hub, or it is private"
    if any(isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled) for cause in causes):
        return f"there is no folder {name} here, it is not cached, and the Hub cannot be reached"
    return str(error).strip().splitlines()[0].rstrip(".")


def _check_version(name: str, written_by: str | None):
    """Raise ValueError where a checkpoint was written by a newer version; one that only corrects errors is none."""
    if written_by is None:
        return
    # Read from the package itself: the library imports from files only.
    installed = sys.modules["m2f"].__version__
    try:
        newer = Version(str(written_by)).release[:2] > Version(installed).release[:2]
    except InvalidVersion as error:
        raise ValueError(
            f"the config.json of {name} has an unreadable {VERSION_FIELD}: {reprlib.repr(written_by)}"
        ) from error
    if newer:
        raise ValueError(
            f"{name} was written by m2f {written_by}, and m2f {installed} is installed; install that version or a "
            "later one"
        )
