"""What can be measured with a checkpoint on a dataset, and how the labels of the two belong together."""

from collections.abc import Sequence
from typing import NamedTuple

from m2f.data.segmentation_dataset import SegmentationDataset, thing_labels
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.inference.model_loading import tasks_of, told_apart
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.validation.class_matching import match_classes


class Checkpoint(NamedTuple):
    """A model and its image processor, as `load_model` gives them."""

    model: M2FForUniversalSegmentation
    processor: M2FImageProcessor

    @property
    def things(self) -> list[int]:
        """Labels whose objects it tells apart."""
        return told_apart(self.processor, self.id2label)

    @property
    def trained_for(self) -> str:
        return self.processor.task

    @property
    def id2label(self) -> dict[int, str]:
        return {int(label): name for label, name in self.model.config.id2label.items()}


def choose_tasks(checkpoint: Checkpoint, dataset: SegmentationDataset, wanted: Sequence[str] = ()) -> list[str]:
    """The tasks that checkpoint and dataset both allow, of which `wanted` may name some.

    Raises:
        ValueError: one of them is not to be had, or none is.
    """
    of_model, of_data = tasks_of(checkpoint.trained_for), tasks_of(dataset.task)
    common = [task for task in of_model if task in of_data]
    if not checkpoint.things or not thing_labels(dataset):
        common = [task for task in common if task != "instance"]
    refused = [task for task in wanted if task not in common]
    if refused or not common:
        raise ValueError(
            f"{f'task {refused[0]} cannot' if refused else 'nothing can'} be measured: a checkpoint trained for "
            f"{checkpoint.trained_for} with {len(checkpoint.things)} things predicts {', '.join(of_model)}, and "
            f"{dataset.format} labels made for {dataset.task} with {len(thing_labels(dataset))} things measure "
            f"{', '.join(of_data)}; both: {', '.join(common) or 'none'}"
        )
    return [task for task in common if not wanted or task in wanted]


def labels_for(checkpoint: Checkpoint, dataset: SegmentationDataset, task: str) -> list[int] | None:
    """The dataset's label of each label of the checkpoint for a task; None where they are the same.

    Raises:
        ValueError: the classes do not fit, or things of one are stuff of the other.
    """
    counted = predicted = None
    if task == "instance":
        counted, predicted = thing_labels(dataset), checkpoint.things
    labels = match_classes(checkpoint.id2label, dataset.id2label, counted, predicted)
    if task == "panoptic":
        differing = {labels[label] for label in checkpoint.things} ^ set(thing_labels(dataset))
        if differing:
            names = ", ".join(dataset.id2label[label] for label in sorted(differing)[:10])
            raise ValueError(
                f"{names}: things of the dataset and stuff of the checkpoint, or the other way round, which changes "
                "what a segment is; give the dataset's own with --data-options thing_label_ids=[...], where its "
                "format takes them, or correct thing_label_ids in the checkpoint's config.json"
            )
    return None if labels == list(range(len(dataset.id2label))) else labels
