"""A checkpoint ready to be evaluated, and what can be measured with it on a dataset."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from transformers.utils import cached_file

from m2f.checkpoints.bundled_checkpoint import checkpoint_location
from m2f.checkpoints.checkpoint_config import read_config
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.checkpoint_report import CheckpointMismatchError
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.class_matching import match_classes
from m2f.training.evaluation_truth import thing_labels

# What a model that is trained for a task can do, and what labels made for it can measure. Labels of objects do not say
# what the other pixels are.
TASKS_OF = {
    "panoptic": ("panoptic", "instance", "semantic"),
    "instance": ("instance",),
    "semantic": ("semantic",),
}


class Checkpoint(NamedTuple):
    """A model and what belongs to it."""

    model: M2FForUniversalSegmentation
    processor: M2FImageProcessor
    things: list[int]  # labels whose objects it tells apart

    @property
    def trained_for(self) -> str:
        return self.processor.task

    @property
    def id2label(self) -> dict[int, str]:
        return {int(label): name for label, name in self.model.config.id2label.items()}


def load_checkpoint(
    name: str,
    dataset: Any,
    trained_for: str | None,
    say: Callable[[str], None],
    **processor_fields: Any,
) -> Checkpoint:
    """A checkpoint of m2f or of transformers' mask2former.

    The latter does not say what it was trained for, nor which classes are things: for what the dataset's labels are
    made for, unless told otherwise, and those that are things in the dataset.

    Args:
        name: folder, Hub id or a bundled checkpoint's name.
        trained_for: task, in place of the checkpoint's own.
        say: called with lines for the person at the terminal.
        processor_fields: settings of the image processor in place of the checkpoint's.

    Raises:
        OSError: it cannot be found or read.
        ValueError: it is of another kind, of a newer version of m2f, or its tensors are not those of its
            configuration.
    """
    name = checkpoint_location(name)
    fields = read_config(name)
    try:
        model = M2FForUniversalSegmentation.from_pretrained(name)
    except CheckpointMismatchError as error:
        raise ValueError(str(error)) from error
    task = trained_for or fields.get("task")
    if task is None:
        task = dataset.task
        say(f"{name} does not say what it was trained for; taken as {task} (--trained-for)")
    things = _things(model.config, fields, task, dataset)
    settings = {"task": task, "thing_label_ids": things if task == "panoptic" else None, **processor_fields}
    return Checkpoint(model.eval(), _processor(name, settings, say), things)


def choose_tasks(checkpoint: Checkpoint, dataset: Any, wanted: Sequence[str] = ()) -> list[str]:
    """The tasks that checkpoint and dataset both allow, of which `wanted` may name some.

    Raises:
        ValueError: one of them is not to be had, or none is.
    """
    of_model, of_data = TASKS_OF[checkpoint.trained_for], TASKS_OF[dataset.task]
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


def labels_for(checkpoint: Checkpoint, dataset: Any, task: str) -> list[int] | None:
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


def _things(model_config: Any, fields: Mapping[str, Any], task: str, dataset: Any) -> list[int]:
    """Labels of the checkpoint.

    Args:
        fields: of its config.json.
    """
    names = {int(label): name for label, name in model_config.id2label.items()}
    if task == "semantic":
        return []
    if task == "instance":
        return sorted(names)
    if "thing_label_ids" in fields:
        things = fields["thing_label_ids"]
        return sorted(names if things is None else things)
    of_data = thing_labels(dataset)
    known = {dataset.id2label[label] for label in of_data}
    # Where classes have no names, they are those of the dataset by their numbers.
    return sorted(label for label, name in names.items() if name in known) or of_data


def _processor(name: str, settings: Mapping[str, Any], say: Callable[[str], None]) -> M2FImageProcessor:
    if cached_file(name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False) is None:
        say(f"{name} has no image processor; a new one resizes to 800 / 1333 pixels and normalises as for ImageNet")
        return M2FImageProcessor(**settings)
    return M2FImageProcessor.from_pretrained(name, **settings)
