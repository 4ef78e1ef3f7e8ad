"""Whether a dataset's classes are those that a checkpoint was trained for."""

from collections.abc import Mapping, Sequence
from typing import Any

from m2f.data.segmentation_dataset import SegmentationDataset
from m2f.output.safe_text import terminal_text

_SHOWN = 10  # names of each kind in a message


def label_fields(dataset: SegmentationDataset) -> dict[str, Any]:
    """What a dataset says of a model's configuration: task, class names, and which classes are things."""
    names = {int(label): name for label, name in dataset.id2label.items()}
    things = dataset.thing_label_ids
    return {
        "id2label": names,
        "label2id": {name: label for label, name in names.items()},
        "task": dataset.task,
        "thing_label_ids": None if things is None else sorted(things),
    }


def dataset_classes(dataset: SegmentationDataset) -> str:
    """Such as "3 classes (car, road, sky)"."""
    names = list(map(terminal_text, dataset.id2label.values()))
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'} ({shown})"


def check_labels(trained: Mapping[int, str], wanted: Mapping[int, str], source: str):
    """Compares the classes of a checkpoint with those of a dataset.

    A checkpoint whose classes have no names (LABEL_0, ...) fits a dataset with as many.

    Args:
        trained: id -> name, of the checkpoint.
        wanted: of the dataset.
        source: what the checkpoint is called in the message.

    Raises:
        ValueError: they differ; the message says which classes only one has, which have moved, and what to do.
    """
    old, new = _in_order(trained), _in_order(wanted)
    if old == new or (len(old) == len(new) and old == [f"LABEL_{i}" for i in range(len(old))]):
        return
    lines = [
        f"the {len(new)} classes of the dataset are not the {len(old)} that {source} was trained for",
        *named("only in the dataset", [name for name in new if name not in old]),
        *named("only in the checkpoint", [name for name in old if name not in new]),
        *named(
            "with another id (checkpoint -> dataset)",
            [f"{name} {old.index(name)} -> {i}" for i, name in enumerate(new) if name in old and old.index(name) != i],
        ),
    ]
    remedy = (
        "--reset-classifier keeps all weights but those of the classes, which start at random. Where only names are "
        "spelled differently, make them equal in the dataset"
    )
    raise ValueError("; ".join(lines) + ". " + remedy)


def named(kind: str, names: Sequence[str]) -> list[str]:
    """A part of a message, the first names of a kind; none without a name."""
    names = list(map(terminal_text, names))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{kind}: {', '.join(names[:_SHOWN])}{more}"] if names else []


def _in_order(labels: Mapping[int, str]) -> list[str]:
    return [name for _, name in sorted((int(label), name) for label, name in labels.items())]
