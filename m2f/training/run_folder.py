"""The output folder of a run: the best model, checkpoints, and the names of all that is written.

config.json, model.safetensors, preprocessor_config.json   the best model so far; results.json has its numbers
adapter/                                                    its LoRA adapters alone, where it has some
training_options.yaml                                       all options, as --config takes them
log.csv, evaluations.csv, curves.png, samples/              what `ProgressReport` and `SampleSheet` write
checkpoints/step-00001000/                                  to go on from
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from m2f.evaluation.result_folder import without_nan
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.output.write_errors import is_full, naming
from m2f.training.adapter_folder import ADAPTER, save_adapters
from m2f.training.checkpoint_contents import unusable_because
from m2f.training.checkpoint_store import CheckpointError, CheckpointStore
from m2f.training.option_values import plain_values, read_options, write_options
from m2f.training.training_options import TrainingOptions
from m2f.training.training_state import TrainingState, save_model

OPTIONS, RESULTS, CHECKPOINTS, SAMPLES = "training_options.yaml", "results.json", "checkpoints", "samples"
# Options that say where and with what a run computes, not what.
_OF_THE_PLACE = {"output", "resume", "device", "cpu", "workers", "keep", "log_with", "samples"}
_OF_THE_PLACE |= {"license", "dataset"}  # or what its model card says


class TrainingDiverged(RuntimeError):
    """Numbers that are not finite, for too long or where they would be saved."""


def find_checkpoint(options: TrainingOptions, say: Callable[[str], None]) -> Path | None:
    """The checkpoint that `resume` means, None to start anew. Says which broken ones are passed over.

    Raises:
        CheckpointError: the named one is broken or not there; or there are some, and none is wanted.
    """
    store = CheckpointStore(Path(options.output) / CHECKPOINTS, options.keep, say, unusable_because)
    if options.resume == "auto":
        latest = store.latest()
        if latest is None and store.steps():
            say(f"no checkpoint in {store.folder} is whole; starting from the beginning")
        return latest
    if options.resume == "never":
        if store.steps():
            raise CheckpointError(
                f"{store.folder} has checkpoints of an earlier run, which --resume never would overwrite; choose "
                "another --output, or move them away"
            )
        return None
    reason = unusable_because(Path(options.resume))
    if reason is not None:
        raise CheckpointError(f"checkpoint {options.resume} cannot be used: {reason}")
    return Path(options.resume)


def check_same_parts(options: TrainingOptions, checkpoint: Path):
    """
    Raises:
        CheckpointError: the checkpoint has the optimizer's state of other parts of the model than the run trains.
    """
    former = read_options(checkpoint / OPTIONS)
    for name, default in (("freeze_backbone", False), ("lora", None)):
        before, now = former.get(name, default), getattr(options, name)
        if before != now:
            raise CheckpointError(
                f"checkpoint {checkpoint} was written with {name} {before}, and now it is {now}; a run trains the "
                "same parts to its end: choose another --output, and start from this model with --model"
            )


class RunFolder:
    """Writes into the output folder. Every process has to call `save_checkpoint` and `save_best`.

    Args:
        options: of the run.
        processor: saved beside each model.
        say: called with lines for the person at the terminal.
    """

    def __init__(self, options: TrainingOptions, processor: M2FImageProcessor, say: Callable[[str], None]):
        self.options = options
        self.processor = processor
        self.path = Path(options.output)
        self.store = CheckpointStore(self.path / CHECKPOINTS, options.keep, say, unusable_because)

    def begin(self):
        self.path.mkdir(parents=True, exist_ok=True)
        write_options(self.options, self.path / OPTIONS)

    def save_checkpoint(self, state: TrainingState):
        """Everything that is needed to go on from here.

        Raises:
            CheckpointError: it cannot be written; earlier ones are as they were.
            TrainingDiverged: the weights are not finite.
        """
        content = state.collect()

        def write(folder: Path):
            save_model(state.plain_model, content.weights, self.processor, folder)
            content.write(folder)
            write_options(self.options, folder / OPTIONS)

        if state.accelerator.is_main_process:
            self._check_finite(content.weights, state.progress.step)
            self.store.save(state.progress.step, write, state.progress.best_step)
        state.accelerator.wait_for_everyone()

    def save_best(
        self,
        state: TrainingState,
        metric: str,
        results: Mapping[str, float],
        details: Mapping[str, Any] | None = None,
    ):
        """The model as it is, in place of the former best one; results.json gets the numbers and their details, see
        `RunEvaluation`.

        Raises:
            CheckpointError, TrainingDiverged: as above.
        """
        weights, step = state.model_weights(), state.progress.step
        if state.accelerator.is_main_process:
            self._check_finite(weights, step)
            record = without_nan({"step": step, "metric": metric, "results": results, **(details or {})})
            try:
                self._replace_model(state, weights, record)
            except OSError as error:
                remedy = "Make room and start" if is_full(error) else "When that is mended, start"
                raise CheckpointError(
                    f"the model of step {step} cannot be written to {self.path}: {error}. {self.last_checkpoint()}. "
                    f"{remedy} again with the same command"
                ) from error
        state.accelerator.wait_for_everyone()

    def last_checkpoint(self) -> str:
        """A sentence for messages."""
        path = self.store.latest()
        return f"The last checkpoint, {path}, is whole" if path else "There is no checkpoint yet"

    def has_checkpoint(self, step: int) -> bool:
        """Whether there is a whole one of this step."""
        return unusable_because(self.store.folder_of(step)) is None

    def changed_options(self, checkpoint: Path) -> list[str]:
        """A line for each option that changes what is computed from a checkpoint on."""
        former, now = read_options(checkpoint / OPTIONS), plain_values(self.options)
        return [
            f"other option than before: {name} {former.get(name)} -> {value}"
            for name, value in now.items()
            if name not in _OF_THE_PLACE and former.get(name) != getattr(self.options, name)
        ]

    def _replace_model(self, state: TrainingState, weights: Mapping[str, Tensor], record: dict[str, Any]):
        """File by file, each whole or not at all. The small ones never change in a run, so that they fit the weights
        at any moment."""
        unfinished = self.path / ".writing-model"
        shutil.rmtree(unfinished, ignore_errors=True)  # what a killed process left
        unfinished.mkdir()
        try:
            save_model(state.plain_model, dict(weights), self.processor, unfinished)
            with naming(self.path / RESULTS):
                (unfinished / RESULTS).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            if state.plain_model.config.backbone_lora is not None:
                base = self.options.model or self.options.backbone
                with naming(self.path / ADAPTER):
                    save_adapters(state.plain_model, weights, base, unfinished / ADAPTER)
            for file in sorted(path for path in unfinished.rglob("*") if path.is_file()):
                target = self.path / file.relative_to(unfinished)
                target.parent.mkdir(exist_ok=True)
                os.replace(file, target)
        finally:
            shutil.rmtree(unfinished)

    def _check_finite(self, weights: Mapping[str, Tensor], step: int):
        wrong = [
            name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()
        ]
        if wrong:
            raise TrainingDiverged(
                f"the weights are not finite after step {step} ({', '.join(wrong[:5])}) and are not saved. "
                f"{self.last_checkpoint()}. Lower --learning-rate (now {self.options.scaled_learning_rate:g})"
            )
