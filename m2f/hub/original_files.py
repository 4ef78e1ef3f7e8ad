"""Read the original's checkpoint files, and run no code from them."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from m2f.hub.array_pickle import UNPICKLING_ERRORS, load_array_pickle

# Levels around the weights, and what detectron2 writes beside them in a flat file.
_WRAPPERS = ("model", "state_dict")
_METADATA = ("__author__", "matching_heuristics")
_DAMAGE = (*UNPICKLING_ERRORS, RuntimeError, AssertionError, SafetensorError)


def read_original_checkpoint(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The weights in a `.pkl`, `.pth`, `.pt`, `.bin` or `.safetensors` file, by the names in the file.

    A `.pkl` is read by `load_array_pickle` and the torch formats with `weights_only=True`, so no code of the file
    runs. The levels "model" and "state_dict" are opened; what lies beside them (optimizer, iteration) is no weight and
    is left.

    Args:
        path: the file.

    Returns:
        Name -> tensor on the CPU, with the dtype of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown ending, a damaged or foreign file, a file that asks for code, values that are no arrays.
    """
    path = Path(path)
    weights = _unwrapped(_load(path))
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(f"{path} holds no weights: expected names with arrays, found a {type(weights).__name__}")
    weights = {name: value for name, value in weights.items() if name not in _METADATA}
    wrong = [f"{name} ({type(v).__name__})" for name, v in weights.items() if not _is_weight(name, v)]
    if wrong:
        raise ValueError(f"{path} has entries that are no arrays, so it is no checkpoint: {', '.join(wrong)}")
    return {name: torch.as_tensor(value) for name, value in weights.items()}


def _load(path: Path) -> Any:
    readers: dict[str, Callable[[Path], Any]] = {".pkl": _load_pickle, ".safetensors": load_file}
    readers |= dict.fromkeys((".pth", ".pt", ".bin"), _load_torch)
    if path.suffix not in readers:
        raise ValueError(f"{path} ends in {path.suffix!r}; the formats known are {', '.join(readers)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    try:
        return readers[path.suffix](path)
    except _DAMAGE as error:
        raise ValueError(f"{path} is no readable checkpoint, perhaps cut off or foreign: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    # torch wraps its reason in advice to load with weights_only=False, which would run the file's code.
    cause = error.__context__ or error
    return str(cause).strip().split(". ")[0] or type(cause).__name__


def _load_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return load_array_pickle(file)


def _load_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _unwrapped(checkpoint: Any) -> Any:
    while isinstance(checkpoint, Mapping):
        inner = [checkpoint[key] for key in _WRAPPERS if isinstance(checkpoint.get(key), Mapping)]
        if not inner:
            break
        checkpoint = inner[0]
    return checkpoint


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, torch.Tensor | np.ndarray)
