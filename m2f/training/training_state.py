"""What a checkpoint holds beside the model, and its way to and from the disk: tensors as safetensors, the rest json.

Nothing is pickled, so that loading a checkpoint runs no code of it.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from m2f.checkpoints.json_object import read_json_object
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.file_mode import give_usual_mode
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.output.write_errors import naming
from m2f.training.checkpoint_store import CheckpointError
from m2f.training.random_state import random_state, set_random_state
from m2f.training.weight_average import WeightAverage

PROGRESS, RANDOM_STATES = "training_progress.json", "random_states.json"
OPTIMIZER, AVERAGE = "optimizer.safetensors", "weight_average.safetensors"
_SEPARATOR = "|"  # in no parameter's name


@dataclass
class Progress:
    """How far a run has come.

    Args:
        step: optimizer steps done, skipped ones included; the next one reads the images from `step * batch_size` on.
        evaluated_step: of the last evaluation.
        best_metric, best_step: of the best one so far.
        skipped, skipped_in_row: steps without an update because loss or gradient was not finite.
        meter: the loss terms since the last row of the log, see `LossMeter`.
        average_updates: of the weight average.
        scaler: of mixed precision fp16.
        dataset_length: images of the dataset, on which their order depends.
        processes: that wrote the checkpoint.
    """

    step: int = 0
    evaluated_step: int | None = None
    best_metric: float | None = None
    best_step: int | None = None
    skipped: int = 0
    skipped_in_row: int = 0
    meter: dict[str, Any] = field(default_factory=dict)
    average_updates: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)
    dataset_length: int = 0
    processes: int = 1

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Progress":
        """What `asdict` gave.

        Raises:
            ValueError: a field is unknown, of another type, or a negative count.
        """
        kinds = get_type_hints(cls)
        for name, value in fields.items():
            kind = dict if get_origin(kinds.get(name)) is dict else kinds.get(name)
            kind = int | float | None if kind == float | None else kind
            if kind is None or isinstance(value, bool) or not isinstance(value, kind):
                raise ValueError(f"{PROGRESS}: {name[:50]!r} is unknown or of another type")
            if isinstance(value, int) and value < 0:
                raise ValueError(f"{PROGRESS}: {name} is {value}; it counts from 0 on")
        return cls(**fields)


@dataclass
class TrainingState:
    """The moving parts of a run."""

    accelerator: Accelerator
    model: nn.Module  # as Accelerate prepared it
    optimizer: AcceleratedOptimizer  # around torch's, its `optimizer`
    average: WeightAverage | None
    progress: Progress

    @property
    def plain_model(self) -> M2FForUniversalSegmentation:
        """The model without wrappers of distributed training and compilation."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def model_weights(self) -> dict[str, Tensor]:
        """Whole tensors; under FSDP2 every process has to call it, and the main process alone gets them."""
        return self.accelerator.get_state_dict(self.plain_model)

    def collect(self) -> "CheckpointContent":
        """Everything that a checkpoint needs, on the main process; every process has to call it."""
        average = self.average.state_dict() if self.average else None
        scaler = self.accelerator.scaler
        self.progress.scaler = scaler.state_dict() if scaler else {}
        self.progress.average_updates = self.average.updates if self.average else 0
        self.progress.processes = self.accelerator.num_processes
        return CheckpointContent(
            weights=self.model_weights(),
            optimizer=self._optimizer_state(),
            average=average,
            random_states=gather_object([random_state(self.accelerator.device)]),
            progress=asdict(self.progress),
        )

    def restore(self, folder: Path):
        """Goes on from a checkpoint; the model itself is loaded before it is prepared, by `from_pretrained`.

        Raises:
            CheckpointError: a file is missing or does not fit the model or the options.
        """
        try:
            self.progress = Progress.from_json(read_json_object(folder / PROGRESS))
            self._restore_optimizer(folder)
            self._restore_average(folder)
            states = json.loads((folder / RANDOM_STATES).read_text(encoding="utf-8"))
        except (OSError, SafetensorError, TypeError, KeyError, ValueError, RecursionError) as error:
            raise CheckpointError(f"checkpoint {folder} cannot be used: {type(error).__name__}: {error}") from error
        if self.accelerator.scaler and self.progress.scaler:
            self.accelerator.scaler.load_state_dict(self.progress.scaler)
        if self.accelerator.process_index < len(states):  # a process that did not exist keeps its own seed
            set_random_state(states[self.accelerator.process_index], self.accelerator.device)

    def _optimizer_state(self) -> dict[str, dict[str, Tensor]]:
        """Parameter's name -> whole tensors on the CPU, for any number of processes and kind of sharding; sharded, the
        main process alone has them."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        found: dict[str, Any] = get_optimizer_state_dict(self.plain_model, self.optimizer.optimizer, options=options)
        return found.get("state", {})

    def _restore_optimizer(self, folder: Path):
        # The groups, with learning rates and weight decays, are those of today's options, not of the checkpoint's.
        optimizer = self.optimizer.optimizer
        groups = get_optimizer_state_dict(self.plain_model, optimizer)["param_groups"]
        state: dict[str, Any] = {"state": _unflattened(load_file(folder / OPTIMIZER)), "param_groups": groups}
        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(self.plain_model, optimizer, state, options=options)

    def _restore_average(self, folder: Path):
        if self.average is None:
            return
        if not (folder / AVERAGE).is_file():
            raise ValueError("it was written without ema_decay, so it has no average; resume without it")
        self.average.load_state_dict(load_file(folder / AVERAGE), self.progress.average_updates)


@dataclass
class CheckpointContent:
    """What `TrainingState.collect` gives; complete on the main process."""

    weights: dict[str, Tensor]
    optimizer: dict[str, dict[str, Tensor]]
    average: dict[str, Tensor] | None
    random_states: list[dict[str, Any]]
    progress: dict[str, Any]

    def write(self, folder: Path):
        """All but the weights, into a folder.

        Raises:
            OSError: the disk is full, for one.
        """
        save_tensors(_flattened(self.optimizer), folder / OPTIMIZER)
        if self.average is not None:
            save_tensors(self.average, folder / AVERAGE)
        for name, content in ((RANDOM_STATES, self.random_states), (PROGRESS, self.progress)):
            with naming(folder / name):
                (folder / name).write_text(json.dumps(content) + "\n", encoding="utf-8")


def save_tensors(tensors: dict[str, Tensor], path: Path):
    """A safetensors file; its library's own error for a full disk becomes an OSError."""
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
    give_usual_mode(path)


def save_model(
    model: M2FForUniversalSegmentation, weights: dict[str, Tensor], processor: M2FImageProcessor, folder: Path
):
    """What `from_pretrained` loads: configuration, weights and image processor.

    Raises:
        OSError: the disk is full, for one.
    """
    with naming(folder):
        model.save_pretrained(folder, state_dict=weights)
        processor.save_pretrained(folder)


def split_name(full_name: str) -> tuple[str, str]:
    """Parameter and key of a tensor in the optimizer's file.

    Raises:
        ValueError: it is no such name.
    """
    name, separator, key = full_name.partition(_SEPARATOR)
    if not separator or _SEPARATOR in key:
        raise ValueError(f"{OPTIMIZER} has a tensor {full_name[:80]!r}, which is none of an optimizer's state")
    return name, key


def _flattened(state: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{name}{_SEPARATOR}{key}": tensor for name, tensors in state.items() for key, tensor in tensors.items()}


def _unflattened(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    state: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        name, key = split_name(full_name)
        state.setdefault(name, {})[key] = tensor
    return state
