"""An evaluation within a run, with all that its model card will say of it."""

import time
from typing import Any, NamedTuple

from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn

from m2f.data.segmentation_dataset import SegmentationDataset
from m2f.evaluation.measuring_machine import measuring_machine
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.validation.evaluation_loop import evaluate_model
from m2f.validation.task_metric import make_metric


class RunEvaluation(NamedTuple):
    """Args:
    results: name -> number.
    details: "task"; "dataset" (format, split, images in it); "images" that were counted; "seconds"; "per_class" (rows,
        as `per_class_table` gives them); "machine", see `measuring_machine`.
    """

    results: dict[str, float]
    details: dict[str, Any]


def evaluate_run(
    model: nn.Module, processor: M2FImageProcessor, dataset: SegmentationDataset, **settings: Any
) -> RunEvaluation:
    """Measure a model for the task that the dataset's labels are made for; every process has to call it.

    Args:
        model, processor, dataset, settings: as for `evaluate_model`.

    Raises:
        ValueError: as `evaluate_model`.
    """
    metric, start = make_metric(dataset), time.perf_counter()
    results = evaluate_model(model, processor, dataset, metric=metric, **settings)
    seconds = time.perf_counter() - start
    details = {
        "task": dataset.task,
        "dataset": {"format": dataset.format, "split": dataset.split, "images": len(dataset)},
        "images": sum(gather_object([len(metric)])),
        "seconds": round(seconds, 3),
        "per_class": metric.per_class_table(),
        "machine": measuring_machine(next(model.parameters()).device, PartialState().num_processes),
    }
    return RunEvaluation(results, details)
