"""A model on every image of a dataset, image by image into a metric: no mask is kept, and none is sent to another
process."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import send_to_device
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers.modeling_outputs import ModelOutput
from transformers.utils import logging

from m2f.data.segment_map import Sample
from m2f.evaluation.instance_average_precision import InstanceAveragePrecision
from m2f.evaluation.panoptic_quality import PanopticQuality
from m2f.evaluation.semantic_iou import SemanticIoU
from m2f.evaluation.streaming_metric import StreamingMetric
from m2f.training.stop_signals import leave_signals_to_the_main_process

logger = logging.get_logger(__name__)

# Results that may decide which model is best, the usual one first.
METRICS = {
    "panoptic": ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st"),
    "instance": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"),
    "semantic": ("mIoU", "fwIoU", "mACC", "pACC"),
}
Observer = Callable[[Sample, ModelOutput], None]


def make_metric(dataset: Any, task: str | None = None) -> StreamingMetric:
    """The usual metric of a task, by default of the dataset's own.

    Raises:
        ValueError: an unknown task.
    """
    task = dataset.task if task is None else task
    if task == "panoptic":
        return PanopticQuality(dataset.id2label, dataset.thing_label_ids)
    if task == "instance":
        return InstanceAveragePrecision(dataset.id2label, boundary=False)
    if task == "semantic":
        return SemanticIoU(dataset.id2label)
    raise ValueError(f"task is {task!r}; it must be one of {', '.join(METRICS)}")


def evaluate_model(
    model: nn.Module,
    processor: Any,
    dataset: Any,
    task: str | None = None,
    *,
    metric: StreamingMetric | None = None,
    batch_size: int = 1,
    workers: int = 0,
    skip_broken: bool = False,
    observe: Observer | None = None,
    progress: bool = False,
) -> dict[str, float]:
    """The numbers of a model on a dataset, at each image's own size.

    In a run of several processes every one has to call it: each takes its share of the images, and all get the result
    of all images, each counted once. The model's mode, training or not, is as before afterwards.

    Args:
        model: on its device; called under `torch.no_grad`.
        processor: prepares the images and post-processes the outputs, as its settings say.
        dataset: a reader of `m2f.data`.
        task: what is measured; by default what the dataset's labels are made for.
        metric: in place of the task's usual one; its `per_class_table` may be read afterwards.
        batch_size: images at a time, on each process. Images of different sizes are padded.
        workers: processes that read images, for each process; 0: none.
        skip_broken: leave out images that cannot be read, with a warning for each; otherwise they raise.
        observe: called with each image's sample and the outputs for it (batch dimension 1), where it is computed.
        progress: show a bar.

    Raises:
        ValueError: an image cannot be read (see `skip_broken`), or none can; or an unknown task.
    """
    task = dataset.task if task is None else task
    metric = make_metric(dataset, task) if metric is None else metric
    metric.reset()
    loader = _loader(dataset, processor, batch_size, workers, skip_broken)
    device = next(model.parameters()).device
    with _evaluating(model):
        for inputs, indices, samples in tqdm(loader, "evaluating", leave=False, disable=not progress, unit="batch"):
            outputs = model(**send_to_device(inputs, device))
            sizes = [sample.segments.size for sample in samples]
            predictions = _post_process(processor, outputs, sizes, task)
            own = [i for i, index in enumerate(indices) if index is not None]
            metric.process(
                [predictions[i] for i in own], [samples[i].segments for i in own], [indices[i] for i in own]
            )
            for i in own if observe else ():
                observe(samples[i], _one_image(outputs, i))
    return metric.evaluate()


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _post_process(processor: Any, outputs: ModelOutput, sizes: Sequence[tuple[int, int]], task: str) -> list:
    if task == "semantic":
        return processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
    if task == "panoptic":
        return processor.post_process_panoptic_segmentation(outputs, target_sizes=sizes)
    return processor.post_process_instance_segmentation(
        outputs, threshold=0, target_sizes=sizes, return_coco_annotation=True
    )


def _one_image(outputs: ModelOutput, index: int) -> ModelOutput:
    """What post-processing needs of one image of a batch."""
    names = ("class_queries_logits", "masks_queries_logits", "valid_sizes")
    return ModelOutput({name: outputs[name][index : index + 1] for name in names if outputs.get(name) is not None})


def _loader(dataset: Any, processor: Any, batch_size: int, workers: int, skip_broken: bool) -> DataLoader:
    state = PartialState()
    return DataLoader(
        _Items(dataset, skip_broken),
        batch_sampler=shard_batches(len(dataset), batch_size, state.num_processes, state.process_index),
        collate_fn=_Collate(processor),
        num_workers=workers,
        worker_init_fn=leave_signals_to_the_main_process,
        # A generator of its own, because a loader draws from the global one, and training goes on afterwards.
        generator=torch.Generator(),
    )


def shard_batches(count: int, batch_size: int, processes: int, rank: int) -> list[list[tuple[int, bool]]]:
    """The batches of one process: per image its index, and whether it counts.

    All processes get equally many batches, because sharded models (FSDP2) compute together; where a process has no
    image left, the last one fills in and does not count.
    """
    batches = []
    for start in range(0, count, batch_size * processes):
        first = start + rank * batch_size
        own = range(first, min(first + batch_size, count))
        batches.append([(index, True) for index in own] or [(count - 1, False)])
    return batches


class _Items(Dataset):
    """(index, sample) of each image; index None where it does not count."""

    def __init__(self, dataset: Any, skip_broken: bool):
        self.dataset = dataset
        self.skip_broken = skip_broken

    def __getitem__(self, entry: tuple[int, bool]) -> tuple[int | None, Sample]:
        index, counts = entry
        for shift in range(len(self.dataset)):
            other = (index + shift) % len(self.dataset)
            try:
                return (index if counts and not shift else None), self.dataset[other]
            except (OSError, ValueError) as error:
                name = self.dataset.image_path(other) or self.dataset.name_of(other)
                if not self.skip_broken:
                    raise ValueError(f"image {name} of the evaluation cannot be read: {error}") from error
                if not shift:
                    logger.warning(f"Image {name} cannot be read and is left out of the evaluation: {error}")
        raise ValueError(f"none of the {len(self.dataset)} images of the evaluation can be read")


class _Collate:
    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, items: Sequence[tuple[int | None, Sample]]) -> tuple[dict, list[int | None], list[Sample]]:
        indices, samples = zip(*items, strict=True)
        inputs = self.processor([sample.image for sample in samples], return_tensors="pt")
        return dict(inputs), list(indices), list(samples)
