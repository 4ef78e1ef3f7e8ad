"""The files of weights in a folder, looked at before they are read."""

import json
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

_WHOLE = "model.safetensors"
_INDICES = (f"{_WHOLE}.index", "pytorch_model.bin.index")  # in the order in which transformers looks
_REMEDY = "save the model again, or get the file again"


def check_weight_files(folder: Any, subfolder: str = "", variant: str | None = None):
    """Raise OSError where the weights of a folder are in several files and the index of these is broken, names files
    elsewhere, or files that are not there. Nothing is done for what is no folder: the Hub's files are its own.

    Args:
        folder: of `from_pretrained`, as the other two.
    """
    if not isinstance(folder, str | os.PathLike) or not os.path.isdir(folder):
        return
    place, ending = Path(folder) / (subfolder or ""), f".{variant}" if variant else ""
    if (place / f"model{ending}.safetensors").is_file():
        return
    for name in _INDICES:
        index = place / f"{name}{ending}.json"
        if index.is_file():
            check_index(index)
            return


def check_index(index: Path) -> dict[str, str]:
    """Name of a weight -> file beside the index.

    Raises:
        OSError: as `check_weight_files`.
    """
    try:
        content = json.loads(index.read_bytes())
    except (ValueError, RecursionError) as error:
        raise OSError(f"{index} is no json file ({type(error).__name__}); {_REMEDY}") from error
    weights = content.get("weight_map") if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not weights or not isinstance(content.get("metadata"), Mapping):
        raise OSError(f"{index} has no weight_map of names to files, or no metadata; {_REMEDY}")
    for file in {name if isinstance(name, str) else None for name in weights.values()}:
        if file is None or not _is_inside(file):
            raise OSError(f"{index} names {_shown(file)}, which is no file beside it; {_REMEDY}")
        if not (index.parent / file).is_file():
            raise OSError(f"{index} names {_shown(file)}, which is not there; {_REMEDY}")
    return dict(weights)


def has_pickled_weights(folder: Any) -> bool:
    """Whether `from_pretrained` reads pickles from this folder."""
    if not isinstance(folder, str | os.PathLike) or not os.path.isdir(folder):
        return False
    place = Path(folder)
    return not list(place.glob("model*.safetensors*")) and bool(list(place.glob("pytorch_model*.bin*")))


def _is_inside(file: str) -> bool:
    """On any system: what is a name here may be a way out elsewhere."""
    parts = PurePosixPath(file).parts
    return bool(parts) and ".." not in parts and not ({"\\", "\0"} & set(file) or _is_absolute(file))


def _is_absolute(file: str) -> bool:
    return file.startswith("/") or bool(PureWindowsPath(file).drive)


def _shown(file: str | None) -> str:
    return "something that is no text" if file is None else reprlib.repr(file)
