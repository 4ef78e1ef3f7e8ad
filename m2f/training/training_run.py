"""A run from its first step, or from a checkpoint, to its best model."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from m2f.data.augmentation_presets import AugmentationPreset
from m2f.data.segmentation_dataset import SegmentationDataset
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.learning_rate_schedule import LearningRateSchedule
from m2f.training.mask_annealing import MaskAnnealing
from m2f.training.optimization_step import OptimizationStep, StepResult
from m2f.training.progress_report import ProgressReport
from m2f.training.run_folder import SAMPLES, RunFolder, TrainingDiverged, check_same_parts
from m2f.training.sample_sheet import SampleSheet
from m2f.training.sample_stream import SampleStream, StreamBatches
from m2f.training.stop_signals import StopSignals
from m2f.training.trackers import begin_trackers, track_picture
from m2f.training.training_log import LossMeter
from m2f.training.training_options import TrainingOptions
from m2f.training.training_setup import make_accelerator, prepared_state, sharding_remarks, training_loader
from m2f.training.training_state import Progress
from m2f.validation.run_evaluation import evaluate_run
from m2f.validation.task_metric import METRICS

_UNUSUAL_LEARNING_RATE = 0.01  # 100 times the paper's
_USUAL_OVERFLOWS = 2  # in a row


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Args:
        step: steps done.
        metric, best_metric, best_step: of the best evaluation, the last two None without one.
        checkpoint: the latest one.
        stopped_by: the signal that stopped the run, 0 if it came to its end.
    """

    step: int
    metric: str
    best_metric: float | None
    best_step: int | None
    checkpoint: Path | None
    stopped_by: int = 0


class TrainingRun:
    """Trains, evaluates, and writes everything into the output folder, see `run_folder`.

    Args:
        options: of the run.
        model: to train; with `checkpoint` as `from_pretrained(checkpoint)` gives it.
        processor: for the images of training and evaluation, with the post-processing of the latter.
        train_dataset, validation_dataset: readers of `m2f.data`; without the second there is no evaluation.
        augmentation: of training; by default the preset that the options name.
        checkpoint: a folder of an earlier run's `checkpoints` to go on from.
        accelerator: by default `make_accelerator(options)`.

    Raises:
        ValueError: options that do not go together, or do not fit the processes.
        CheckpointError: a checkpoint that does not fit.
    """

    def __init__(
        self,
        options: TrainingOptions,
        model: M2FForUniversalSegmentation,
        processor: M2FImageProcessor,
        train_dataset: SegmentationDataset,
        validation_dataset: SegmentationDataset | None = None,
        *,
        augmentation: AugmentationPreset | None = None,
        checkpoint: Path | None = None,
        accelerator: Accelerator | None = None,
    ):
        self.options = options
        self.processor = processor
        self.validation_dataset = validation_dataset
        self.metric = _metric_name(options, train_dataset.task)
        self.accelerator = accelerator or make_accelerator(options)
        # To each process its own random points and dropped paths; a checkpoint brings the state that it had.
        set_seed(options.seed, device_specific=True)
        self.state = prepared_state(options, model, self.accelerator)
        self._base_rates = [group["lr"] for group in self.state.optimizer.param_groups]
        self._schedule = LearningRateSchedule.from_options(options)
        self._annealing = MaskAnnealing.from_options(options, model.config.decoder_layers - 1)
        self._do_step = OptimizationStep(self.state, options.batch_size, options.clip_norm)
        if checkpoint is not None:
            check_same_parts(options, checkpoint)
            self.state.restore(checkpoint)
        self._meter = LossMeter(self.progress.meter)
        self._stream = SampleStream(train_dataset, options.seed, options.max_steps * options.batch_size)
        self._batches = StreamBatches(
            options.batch_size,
            options.gradient_accumulation_steps,
            self.accelerator.num_processes,
            self.accelerator.process_index,
            self.progress.step,
            options.max_steps,
        )
        self._loader = training_loader(
            options, self._stream, self._batches, processor, augmentation, self.accelerator.device
        )
        self._is_sound = True
        self._begin(checkpoint)

    @property
    def progress(self) -> Progress:
        return self.state.progress

    def run(self) -> RunOutcome:
        """To the last step, or to a signal.

        Raises:
            TrainingDiverged: too many steps in a row had a loss or gradient that is not finite.
            CheckpointError: something cannot be written.
            ValueError: an image cannot be read, or does not fit the model.
        """
        self.state.model.train()
        try:
            with StopSignals(self.report.say) as signals:
                batches = iter(self._loader)
                stopped_by = 0
                if self._evaluation_is_due():  # where a signal came before the evaluation of its step
                    self.evaluate()
                while self.progress.step < self.options.max_steps and not stopped_by:
                    self._train_step(batches)
                    stopped_by = self._after_step(signals)
                if not stopped_by:
                    self._finish()
            return self._outcome(stopped_by)
        finally:
            self._unwrap()
            self.report.close()

    def evaluate(self) -> dict[str, float]:
        """Measures the model as it is now, or its average where there is one; keeps it if it is the best so far."""
        is_main, step, dataset = self.accelerator.is_main_process, self.progress.step, self.validation_dataset
        assert dataset is not None  # nobody calls this without one
        own_images = len(dataset) // self.accelerator.num_processes
        sheet = SampleSheet(self.processor, dataset, self.options.samples, own_images)
        with self._averaged():
            results, details = evaluate_run(
                self.state.plain_model,
                self.processor,
                dataset,
                batch_size=self.options.evaluation_batch_size,
                workers=self.options.workers,
                skip_broken=self.options.on_broken_image == "skip",
                observe=sheet.observe if is_main else None,
                progress=is_main and self.report.at_terminal,
            )
            self.progress.evaluated_step = step
            value, best = results[self.metric], self.progress.best_metric
            if not math.isnan(value) and (best is None or value >= best):  # of equal ones the one trained longer
                self.progress.best_metric, self.progress.best_step = value, step
                self.folder.save_best(self.state, self.metric, results, details)
        self.report.evaluation(step, results)
        picture = self.folder.path / SAMPLES / f"step-{step:08d}.png"
        sheet.save(picture)
        if is_main:
            track_picture(self.accelerator, picture, step)
        self.report.draw(self.metric)
        return results

    def save_checkpoint(self):
        """Everything that is needed to go on from here.

        Raises:
            CheckpointError: it cannot be written; earlier ones are as they were.
            TrainingDiverged: the weights are not finite.
        """
        self.progress.meter = self._meter.state_dict()
        self.folder.save_checkpoint(self.state)

    def _unwrap(self):
        """Frees what DistributedDataParallel has around the model while the processes are still connected. Else it is
        the last to hold the connection, ends it when Python exits, with Python's lock held, and waits for a thread
        that waits for that lock: now and then a run of several processes never came to its end."""
        self.state.model = self.state.plain_model
        self.accelerator.free_memory()

    def _doubt(self, what: str) -> bool:
        """Whether the weights may be broken, because the last step could not be done; says what is left out then.

        A checkpoint of such weights would push out a good one.
        """
        if not self._is_sound:
            self.report.say(f"no {what} after step {self.progress.step}, because it was skipped")
        return not self._is_sound

    def _begin(self, checkpoint: Path | None):
        options = self.options
        self.report = ProgressReport(
            self.accelerator,
            Path(options.output),
            self.progress.step,
            options.max_steps,
            self.progress.evaluated_step or 0,
            options.batch_size,
        )
        self.folder = RunFolder(options, self.processor, self.report.say)
        if self.accelerator.is_main_process:
            self.folder.begin()
        begin_trackers(self.accelerator, options, self._about_model())
        if options.scaled_learning_rate > _UNUSUAL_LEARNING_RATE:
            self.report.say(f"learning rate {options.scaled_learning_rate:g} is very large; the paper's is 0.0001")
        for line in sharding_remarks(self.accelerator):
            self.report.say(line)
        now = {"dataset_length": len(self._stream.dataset), "processes": self.accelerator.num_processes}
        if checkpoint is not None:
            self.report.say(f"going on from {checkpoint}, step {self.progress.step} of {options.max_steps}")
            for line in [*self.folder.changed_options(checkpoint), *self._changed_order(now)]:
                self.report.say(line)
        self.progress.dataset_length, self.progress.processes = now.values()

    def _about_model(self) -> dict[str, str | int]:
        """What the options do not say."""
        model = self.state.plain_model
        return {
            "backbone_type": model.config.backbone_config.model_type,
            "classes": model.config.num_labels,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "training_images": len(self._stream.dataset),
        }

    def _changed_order(self, now: dict[str, int]) -> list[str]:
        return [
            f"other {name.replace('_', ' ')} than before: {getattr(self.progress, name)} -> {value}"
            for name, value in now.items()
            if getattr(self.progress, name) != value
        ]

    def _train_step(self, batches: Iterator):
        self.report.begin_step()
        step = self.progress.step
        for group, rate in zip(self.state.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * self._schedule.factor(step)
        if self._annealing is not None:
            self.state.plain_model.set_mask_shares(self._annealing.shares(step))
        passes = [next(batches) for _ in range(self.options.gradient_accumulation_steps)]
        result = self._do_step(passes, lambda i: [*map(self._stream.name_of, self._batches.positions(step, i))])
        if result.skipped_because is None and self.state.average:
            self.state.average.update()
        self.progress.step += 1
        self.report.end_step()
        self._meter.add(result)
        self._count_skipped(result)

    def _count_skipped(self, result: StepResult):
        progress, options = self.progress, self.options
        if result.skipped_because is None:
            progress.skipped_in_row, self._is_sound = 0, True
            return
        progress.skipped += 1
        progress.skipped_in_row += 1
        # Now and then an overflow belongs to fp16.
        self._is_sound = result.overflowed and progress.skipped_in_row <= _USUAL_OVERFLOWS
        self.report.say(f"step {progress.step} skipped ({progress.skipped} in all), {result.skipped_because}")
        if progress.skipped_in_row >= options.max_skipped:
            raise TrainingDiverged(
                f"{progress.skipped_in_row} steps in a row had a loss or gradient that is not finite (--max-skipped "
                f"{options.max_skipped}), the last one {result.skipped_because}. {self.folder.last_checkpoint()}. "
                f"Lower --learning-rate (now {options.scaled_learning_rate:g}), use bf16 in place of fp16, or look "
                "at the images named above"
            )

    def _after_step(self, signals: StopSignals) -> int:
        """Log, evaluation and checkpoint where they are due. Gives the signal that stops the run, or 0."""
        step, options = self.progress.step, self.options
        is_last = step == options.max_steps
        if is_last or step % options.log_every == 0:
            self._log()
        if is_last:
            return 0
        if self._evaluation_is_due() and not self._signal(signals) and not self._doubt("evaluation"):
            self.evaluate()
        stopped_by = self._signal(signals)
        if (stopped_by or _is_due(step, options.checkpoint_every)) and not self._doubt("checkpoint"):
            self.save_checkpoint()
        return stopped_by

    def _evaluation_is_due(self) -> bool:
        step, has_images = self.progress.step, self.validation_dataset is not None
        return has_images and _is_due(step, self.options.evaluate_every) and self.progress.evaluated_step != step

    def _log(self):
        step = self.progress.step
        others = {
            "epoch": round(step * self.options.batch_size / len(self._stream.dataset), 3),
            "learning_rate": max(group["lr"] for group in self.state.optimizer.param_groups),
            "skipped": self.progress.skipped,
        }
        self.report.losses(step, self._meter.take(), others)

    def _finish(self):
        """What is left after the last step; a run that goes on from its end does what it had not done."""
        if self.validation_dataset is not None and self.progress.evaluated_step != self.progress.step:
            self.evaluate()
        if self.progress.best_step is None:
            with self._averaged():
                self.folder.save_best(self.state, self.metric, {})
        if not self.folder.has_checkpoint(self.progress.step) and not self._doubt("checkpoint"):
            self.save_checkpoint()
        self.report.draw(self.metric)

    def _averaged(self):
        return self.state.average.swapped_in() if self.state.average else nullcontext()

    def _signal(self, signals: StopSignals) -> int:
        """The signal that any process received; every process has to call it."""
        if self.accelerator.num_processes == 1:
            return signals.received
        received = torch.tensor([signals.received], device=self.accelerator.device)
        return int(self.accelerator.gather(received).max())

    def _outcome(self, stopped_by: int) -> RunOutcome:
        progress, steps = self.progress, list(self.folder.store.steps().values())
        latest = steps[0] if steps else None
        return RunOutcome(progress.step, self.metric, progress.best_metric, progress.best_step, latest, stopped_by)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step > 0 and step % every == 0


def _metric_name(options: TrainingOptions, task: str) -> str:
    names = METRICS[task]
    if options.metric is not None and options.metric not in names:
        raise ValueError(
            f"metric is {options.metric!r}; for a dataset of task {task!r} it is one of {', '.join(names)}"
        )
    return options.metric or names[0]
