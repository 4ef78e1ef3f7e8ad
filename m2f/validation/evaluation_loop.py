"""A model on every image of a dataset, image by image into metrics: no mask is kept, and none is sent to another
process."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, send_to_device
from torch import nn
from tqdm import tqdm
from transformers.modeling_outputs import ModelOutput

from m2f.data.segment_map import Sample
from m2f.data.segmentation_dataset import SegmentationDataset
from m2f.evaluation.streaming_metric import StreamingMetric
from m2f.image_processing.band_image import PixelImage
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.inference.batch_limit import AUTO, BatchLimit
from m2f.validation.evaluation_batches import (
    ONE_VIEW,
    EvaluationBatch,
    TestTimeView,
    batches_by_shape,
    batches_in_order,
    batches_of_one_size,
    evaluation_loader,
    processed_sizes,
    shard_batches,
)
from m2f.validation.task_measurement import TaskMeasurement, measuring_decoder
from m2f.validation.task_metric import make_metric

Observer = Callable[[Sample, ModelOutput], None]
# From an image to a prediction for each task, in the forms of post-processing.
Predictor = Callable[[PixelImage], Mapping[str, Any]]


def evaluate_model(
    model: nn.Module,
    processor: M2FImageProcessor,
    dataset: SegmentationDataset,
    task: str | None = None,
    *,
    metric: StreamingMetric | None = None,
    batch_size: int = 1,
    workers: int = 0,
    skip_broken: bool = False,
    observe: Observer | None = None,
    progress: bool = False,
) -> dict[str, float]:
    """The numbers of a model on a dataset for one task; see `evaluate_tasks`.

    Args:
        task: what is measured; by default what the dataset's labels are made for.
        metric: in place of the task's usual one; its `per_class_table` may be read afterwards.
        model, processor, dataset, batch_size, workers, skip_broken, observe, progress: as for `evaluate_tasks`.

    Raises:
        ValueError: an image cannot be read (see `skip_broken`), or none can; or an unknown task.
    """
    task = dataset.task if task is None else task
    metric = make_metric(dataset, task) if metric is None else metric
    measurement = TaskMeasurement(measuring_decoder(processor, task), metric)
    evaluate_tasks(
        model,
        processor,
        dataset,
        [measurement],
        batch_size=batch_size,
        workers=workers,
        skip_broken=skip_broken,
        observe=observe,
        progress=progress,
    )
    return metric.evaluate()


def evaluate_tasks(
    model: nn.Module,
    processor: M2FImageProcessor,
    dataset: SegmentationDataset,
    measurements: Sequence[TaskMeasurement],
    *,
    batch_size: int | str = 1,
    by_shape: bool = False,
    views: Sequence[TestTimeView] = ONE_VIEW,
    workers: int = 0,
    skip_broken: bool = False,
    observe: Observer | None = None,
    predict: Predictor | None = None,
    progress: bool = False,
) -> int:
    """Run a model once on every image, at each image's own size, and count the outputs for several tasks. The metrics
    of `measurements` have the numbers afterwards; what they had before is forgotten.

    In a run of several processes every one has to call it, and the metrics' `evaluate` too: each takes its share of
    the images, and all get the result of all images, each counted once. The model's mode, training or not, is as
    before afterwards.

    Args:
        model: on its device; called under `torch.no_grad`.
        processor: prepares the images, as its settings say.
        dataset: a reader of `m2f.data`.
        measurements: what to do with the outputs. Several views are for the task "semantic" alone.
        batch_size: images at a time, on each process. Images of different sizes are padded. "auto": as many of one
            size as `BatchLimit` puts together, for one view.
        by_shape: put images of similar size together, in place of the dataset's order.
        views: scales and flips of each image, whose scores are averaged.
        workers: processes that read images, for each process; 0: none.
        skip_broken: leave out images that cannot be read, with a warning for each; otherwise they raise.
        observe: called with each image's sample and the outputs for it (batch dimension 1), where it is computed; not
            with several views.
        predict: what to do with each image in place of one batch through the model, such as to cut it into tiles; it
            calls the model itself, however often for an image. Not with several views, nor with `observe`.
        progress: show a bar.

    Returns:
        Images that this process counted.

    Raises:
        ValueError: an image cannot be read (see `skip_broken`), or none can; several views of another task, or what
            does not go with `predict`.
    """
    views = tuple(views)
    tasks = [measurement.task for measurement in measurements]
    if len(views) > 1 and (set(tasks) != {"semantic"} or observe):
        raise ValueError(f"several views are averaged for the task semantic alone, not for {', '.join(tasks)}")
    if predict and (len(views) > 1 or observe):
        raise ValueError("several views, or an observer of outputs, are for images that the model sees as a whole")
    for measurement in measurements:
        measurement.metric.reset()
    batch_size = 1 if predict or (len(views) > 1 and batch_size == AUTO) else batch_size
    views = () if predict else views
    state, counted = PartialState(), 0
    batches = _batches(dataset, processor, batch_size, by_shape, model)
    share = shard_batches(batches, state.num_processes, state.process_index)
    loader = evaluation_loader(dataset, processor, share, workers, skip_broken, views)
    with _evaluating(model):
        for batch in tqdm(loader, "evaluating", leave=False, disable=not progress, unit="batch"):
            if predict:
                counted += _count_predicted(predict, batch, measurements)
            else:
                counted += _count_batch(model, batch, views, measurements, observe)
    return counted


def _batches(
    dataset: SegmentationDataset, processor: M2FImageProcessor, batch_size: int | str, by_shape: bool, model: nn.Module
) -> list[list[int]]:
    if isinstance(batch_size, str):  # "auto"
        limit, is_main = BatchLimit(batch_size, model), PartialState().is_main_process
        # Of one process, which looks at the images' files for all, and whose free memory may be another than theirs.
        batches = batches_of_one_size(processed_sizes(dataset, processor), limit) if is_main else []
        return broadcast_object_list([batches])[0]
    if by_shape and batch_size > 1:
        return batches_by_shape(processed_sizes(dataset, processor), batch_size)
    return batches_in_order(len(dataset), batch_size)


def _count_predicted(predict: Predictor, batch: EvaluationBatch, measurements: Sequence[TaskMeasurement]) -> int:
    own = [(index, sample) for index, sample in zip(batch.indices, batch.samples, strict=True) if index is not None]
    for index, sample in own:
        predictions = predict(sample.image)
        for measurement in measurements:
            measurement.count(index, sample, measurement.relabelled(predictions[measurement.task]))
    return len(own)


def _count_batch(
    model: nn.Module,
    batch: EvaluationBatch,
    views: Sequence[TestTimeView],
    measurements: Sequence[TaskMeasurement],
    observe: Observer | None,
) -> int:
    device = next(model.parameters()).device
    outputs = (model(**send_to_device(inputs, device)) for inputs in batch.views)  # one at a time in memory
    sizes = [sample.segments.size for sample in batch.samples]
    own = [(i, index) for i, index in enumerate(batch.indices) if index is not None]
    only = next(outputs) if len(views) == 1 else None
    for measurement in measurements:
        predictions = (
            measurement.predictions_of_views(outputs, views, sizes)
            if only is None
            else measurement.predictions(only, sizes)
        )
        for i, index in own:
            measurement.count(index, batch.samples[i], predictions[i])
    if observe and only is not None:
        for i, _ in own:
            observe(batch.samples[i], _one_image(only, i))
    return len(own)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _one_image(outputs: ModelOutput, index: int) -> ModelOutput:
    """What post-processing needs of one image of a batch."""
    names = ("class_queries_logits", "masks_queries_logits", "valid_sizes", "input_sizes")
    return ModelOutput({name: outputs[name][index : index + 1] for name in names if outputs.get(name) is not None})
