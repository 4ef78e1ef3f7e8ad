"""A whole evaluation: every task that is wanted from one pass over the images, with predictions in files."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object

from m2f.data.cityscapes_labels import CLASSES
from m2f.data.segment_map import Sample
from m2f.data.segmentation_dataset import SegmentationDataset, thing_labels
from m2f.evaluation.prediction_files import InstanceFile, PanopticFiles, PredictedImage, SemanticFiles
from m2f.validation.checkpoint_tasks import Checkpoint, labels_for
from m2f.validation.evaluation_batches import ONE_VIEW, TestTimeView
from m2f.validation.evaluation_loop import Predictor, evaluate_tasks
from m2f.validation.evaluation_truth import Truth, truth_of
from m2f.validation.task_measurement import TaskMeasurement, measuring_decoder
from m2f.validation.task_metric import MAX_INSTANCES, make_metric

_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


class Validation(NamedTuple):
    """Results of an evaluation, the same on every process.

    Args:
        images: that were counted.
        seconds: for all of it but loading the model.
        results: task -> name -> number.
        per_class: task -> rows, as `per_class_table` gives them; of instances the things alone.
    """

    images: int
    seconds: float
    results: dict[str, dict[str, float]]
    per_class: dict[str, list[dict[str, Any]]]


def validate(
    checkpoint: Checkpoint,
    dataset: SegmentationDataset,
    tasks: Sequence[str],
    accelerator: Accelerator,
    *,
    max_detections: int = MAX_INSTANCES,
    threshold: float = 0,
    boundary: bool = False,
    output: Path | None = None,
    views: Sequence[TestTimeView] = ONE_VIEW,
    predict: Predictor | None = None,
    **settings: Any,
) -> Validation:
    """Measure a checkpoint on a dataset; every process has to call it.

    Args:
        tasks: of `choose_tasks`.
        max_detections: instances of an image that are predicted and counted, of each class too.
        threshold: lowest score of an instance; without 0, what is left out counts as not found.
        boundary: whether to compute boundary AP too.
        output: folder, which is there, for predictions in the official formats.
        views: scales and flips to average over, for the task "semantic" alone.
        predict: see `evaluate_tasks`; of `checkpoint.model`, which is prepared in place, for all of `tasks`, with
            the same `max_detections` and `threshold`.
        settings: batch_size, workers, skip_broken, progress: as for `evaluate_tasks`.

    Raises:
        ValueError: the dataset has no image, its classes do not fit, `predict` is given and the model is sharded,
            or what `evaluate_tasks` raises.
    """
    start = time.perf_counter()
    if not len(dataset):
        raise ValueError(f"split {dataset.split!r} has no image; give a split that has some, with --split")
    truth = truth_of(dataset)
    recorders = {task: _Recorder(_files(task, output, dataset), truth) for task in tasks} if output else {}
    measurements = [
        TaskMeasurement(
            measuring_decoder(checkpoint.processor, task, threshold, max_detections),
            make_metric(dataset, task, max_detections, boundary),
            getattr(truth, task),
            truth.image_id,
            labels_for(checkpoint, dataset, task),
            recorders.get(task),
        )
        for task in tasks
    ]
    if predict and accelerator.distributed_type in _SHARDED:  # its processes would have to compute in step
        raise ValueError("a sharded model cannot segment in tiles, of which images have different numbers; use DDP")
    model = accelerator.prepare_model(checkpoint.model, evaluation_mode=True)
    settings = {"by_shape": True, "views": views, "predict": predict, **settings}
    counted = evaluate_tasks(model, checkpoint.processor, dataset, measurements, **settings)
    images = sum(gather_object([counted]))
    results = {measurement.task: measurement.metric.evaluate() for measurement in measurements}
    per_class = {measurement.task: _rows(measurement, dataset) for measurement in measurements}
    for recorder in recorders.values():
        recorder.finish(accelerator.is_main_process)
    return Validation(images, time.perf_counter() - start, results, per_class)


def dataset_numbers(dataset: SegmentationDataset) -> list[int]:
    """The number of each label in the dataset's own files where its reader knows it, as the official tools want it in
    predictions; else the label itself."""
    if dataset.format == "cityscapes":
        number_of = {label.name: label.id for label in CLASSES}
        return [number_of[dataset.id2label[label]] for label in sorted(dataset.id2label)]
    for numbers in ("category_ids", "label_values"):
        if hasattr(dataset, numbers):
            return list(getattr(dataset, numbers))
    return sorted(dataset.id2label)


class _Recorder:
    """Passes predictions on to their files, and keeps what the processes put together in the end."""

    def __init__(self, files: InstanceFile | PanopticFiles | SemanticFiles, truth: Truth):
        self.files = files
        self.truth = truth
        self._lines: list[tuple[int, str]] = []

    def __call__(self, index: int, sample: Sample, prediction: Any):
        image = PredictedImage(index, self.truth.image_id(index), sample.name, sample.segments.size)
        self._lines.append((index, self.files.add(image, prediction)))

    def finish(self, is_main: bool):
        lines = sorted(gather_object(self._lines))
        if is_main:
            self.files.finish([line for _, line in lines])


def _files(task: str, folder: Path, dataset: SegmentationDataset) -> InstanceFile | PanopticFiles | SemanticFiles:
    numbers = dataset_numbers(dataset)
    if task == "instance":
        return InstanceFile(folder, numbers)
    names = [dataset.name_of(index) for index in range(len(dataset))]
    if task == "semantic":
        return SemanticFiles(folder, names, numbers)
    return PanopticFiles(folder, names, numbers, dataset.id2label, thing_labels(dataset))


def _rows(measurement: TaskMeasurement, dataset: SegmentationDataset) -> list[dict[str, Any]]:
    rows = measurement.metric.per_class_table()
    if measurement.task != "instance":
        return rows
    things = set(thing_labels(dataset))
    return [row for row in rows if row["class_id"] in things]
