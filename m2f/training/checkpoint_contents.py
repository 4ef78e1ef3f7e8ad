"""Whether a run can go on from a checkpoint: its files are as they were written, and hold what the run needs."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from transformers.core_model_loading import revert_weight_conversion
from transformers.initialization import no_init_weights

from m2f.checkpoints.json_object import read_json_object
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.modeling_m2f.weight_files import check_index
from m2f.training.checkpoint_store import broken_because, one_line
from m2f.training.option_values import read_options
from m2f.training.random_state import random_state, set_random_state
from m2f.training.training_log import LossMeter
from m2f.training.training_state import AVERAGE, OPTIMIZER, PROGRESS, RANDOM_STATES, Progress, split_name

_WEIGHTS, _OPTIONS = "model.safetensors", "training_options.yaml"
_NEEDED = ("config.json", "preprocessor_config.json", _OPTIONS, OPTIMIZER, PROGRESS, RANDOM_STATES)

Shapes = dict[str, tuple[int, ...]]


def unusable_because(folder: Path) -> str | None:
    """Why a run cannot go on from a checkpoint; None if it can. Never raises: whatever is wrong with one checkpoint,
    there may be another before it."""
    try:
        return broken_because(folder, _NEEDED) or _misfit(folder)
    except Exception as error:
        return f"it cannot be read ({one_line(error)})"


def _misfit(folder: Path) -> str | None:
    """What the files say, which may be as they were written and yet of somebody who wrote something else."""
    config = M2FForUniversalSegmentation.config_class.from_pretrained(folder)
    with torch.device("meta"), no_init_weights():
        model = M2FForUniversalSegmentation(config)
    M2FImageProcessor.from_pretrained(folder)
    read_options(folder / _OPTIONS)
    LossMeter(Progress.from_json(read_json_object(folder / PROGRESS)).meter)
    _try_random_states(json.loads((folder / RANDOM_STATES).read_bytes()))
    return (
        _differing_weights(folder, model) or _differing_optimizer(folder, model) or _differing_average(folder, model)
    )


def _differing_weights(folder: Path, model: nn.Module) -> str | None:
    found = _weights_in(folder)
    for name, shape in _shapes_in_files(model).items():
        if name not in found:
            return f"its weights lack {name}"
        if found[name] != shape:
            return f"its weights have {name} of shape {found[name]} instead of {shape}"
    return None


def _weights_in(folder: Path) -> Shapes:
    if (folder / _WEIGHTS).is_file():
        return _shapes(folder / _WEIGHTS)
    index = check_index(folder / f"{_WEIGHTS}.index.json")
    files = {file: _shapes(folder / file) for file in sorted(set(index.values()))}
    return {name: files[file][name] for name, file in index.items() if name in files[file]}


def _shapes_in_files(model: Any) -> Shapes:
    """Of what a saved model has; names in memory may be others."""
    tensors = model.state_dict()
    numbers = {name: torch.tensor(i) for i, name in enumerate(tensors)}
    shapes = [tuple(tensor.shape) for tensor in tensors.values()]
    return {name: shapes[int(i)] for name, i in revert_weight_conversion(model, numbers).items()}


def _differing_optimizer(folder: Path, model: nn.Module) -> str | None:
    """Moments have the shape of their parameter, and steps none."""
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for full_name, shape in _shapes(folder / OPTIMIZER).items():
        name, _ = split_name(full_name)
        if name not in expected or shape not in ((), (1,), expected[name]):
            return f"{OPTIMIZER} is that of another model"
    return None


def _differing_average(folder: Path, model: nn.Module) -> str | None:
    if not (folder / AVERAGE).is_file():
        return None
    tensors = [*model.named_parameters(), *model.named_buffers()]
    expected = {name: tuple(tensor.shape) for name, tensor in tensors if tensor.is_floating_point()}
    return None if _shapes(folder / AVERAGE) == expected else f"{AVERAGE} is that of another model"


def _shapes(path: Path) -> Shapes:
    with safe_open(path, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def _try_random_states(states: Any):
    """Raise where a state cannot be set; the process's own stays."""
    if not isinstance(states, list) or not states or not all(isinstance(state, Mapping) for state in states):
        raise ValueError(f"{RANDOM_STATES} holds no list of states")
    cpu = torch.device("cpu")
    own = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        for state in states:
            set_random_state(dict(state), cpu)
            random_state(cpu)
    finally:
        random.setstate(own[0])
        np.random.set_state(own[1])
        torch.set_rng_state(own[2])
