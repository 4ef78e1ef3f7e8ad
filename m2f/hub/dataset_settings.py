"""What a checkpoint of the paper does not say itself: its dataset, and with it class names, things and resolution."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from transformers import PretrainedConfig

from m2f.configuration.configuration_m2f import TASKS
from m2f.hub.class_tables import class_names, presets_with, thing_labels
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.resolution_presets import RESOLUTION_PRESETS, get_preset

NO_DATASET = "none"
# Swin-B and Swin-L; the paper's semantic ADE20K models with them are tested at 640 instead of 512.
_LARGE_SWIN_CHANNELS = 128
_SAME_NAMES = 0.5  # share of equal names from which classes are taken for a dataset's; spellings differ


@dataclass(frozen=True)
class DatasetSettings:
    """Args:
    preset: name in `RESOLUTION_PRESETS`; None: a dataset of the user's own.
    task: what the model was trained for.
    id2label: names of the classes; None: unknown.
    thing_label_ids: see `M2FConfig`.
    """

    preset: str | None
    task: str
    id2label: dict[int, str] | None
    thing_label_ids: list[int] | None

    def config_fields(self) -> dict[str, Any]:
        """For `M2FConfig`."""
        fields: dict[str, Any] = {"task": self.task, "thing_label_ids": self.thing_label_ids}
        if self.id2label is not None:
            fields |= {"id2label": self.id2label, "label2id": {name: i for i, name in self.id2label.items()}}
        return fields

    def processor(self) -> M2FImageProcessor:
        """With the paper's settings for the dataset, or the general ones."""
        if self.preset is None:
            return M2FImageProcessor(task=self.task, thing_label_ids=self.thing_label_ids)
        return M2FImageProcessor.from_preset(self.preset, thing_label_ids=self.thing_label_ids)


def dataset_settings(
    num_labels: int,
    backbone: Mapping[str, Any],
    *,
    names: Mapping[int, str] | None = None,
    dataset: str | None = None,
    task: str | None = None,
    source: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> DatasetSettings:
    """The settings of a checkpoint without any of its own.

    Args:
        num_labels: its classes.
        backbone: content of its `backbone_config`.
        names: its class names, where it has some.
        dataset: a preset's name, or "none" for another dataset; by default found out by the classes.
        task: what it was trained for.
        source: its name, which the Hub's say the task in; and for messages.
        say: called with what was found out.

    Raises:
        ValueError: `dataset` is unknown or has another number of classes; several datasets are possible; or nothing
            says the task.
    """
    hinted = [name for name in TASKS if name in PurePath(source).name]
    task = task or (hinted[0] if len(hinted) == 1 else None)
    preset = _checked(dataset, num_labels) if dataset else _found(num_labels, names, task, source)
    if preset is None:
        if task is None:
            raise ValueError(f"{source} does not say what it was trained for; give --task {', '.join(TASKS)}")
        return DatasetSettings(None, task, dict(names) if names else None, None)
    settings = get_preset(preset)
    if task not in (None, settings.task):
        raise ValueError(f"--task {task} contradicts the dataset {preset}, whose task is {settings.task}")
    if preset == "ade20k-semantic" and backbone.get("embed_dim", 0) >= _LARGE_SWIN_CHANNELS:
        preset = "ade20k-semantic-640"
    size = get_preset(preset)
    say(f"settings of {preset}: {num_labels} classes, images of {size.shortest_edge} / {size.longest_edge} pixels")
    return DatasetSettings(preset, settings.task, dict(names or class_names(preset)), thing_labels(preset))


def own_names(config: PretrainedConfig) -> dict[int, str] | None:
    """The class names of a configuration; None where they are transformers' numbers ("LABEL_0")."""
    names = {int(label): name for label, name in (config.id2label or {}).items()}
    return None if all(name == f"LABEL_{label}" for label, name in names.items()) else names


def _checked(dataset: str, num_labels: int) -> str | None:
    if dataset == NO_DATASET:
        return None
    if dataset not in RESOLUTION_PRESETS:
        raise ValueError(f"unknown dataset {dataset!r}; there are {', '.join((*RESOLUTION_PRESETS, NO_DATASET))}")
    if (expected := len(class_names(dataset))) != num_labels:
        raise ValueError(f"{dataset} has {expected} classes, but the checkpoint has {num_labels}; give --dataset none")
    return dataset


def _found(num_labels: int, names: Mapping[int, str] | None, task: str | None, source: str) -> str | None:
    """The only dataset that fits, None where none does."""
    fitting = [name for name in presets_with(num_labels) if names is None or _are_those_of(name, names)]
    if task is not None:
        fitting = [name for name in fitting if get_preset(name).task == task]
    if len(fitting) > 1:
        raise ValueError(
            f"{source} has {num_labels} classes, which {' and '.join(fitting)} have; give --dataset with one of them, "
            f"or --dataset {NO_DATASET}"
        )
    return fitting[0] if fitting else None


def _are_those_of(preset: str, names: Mapping[int, str]) -> bool:
    known = class_names(preset)
    same = sum(name.strip().lower() == known.get(label, "").lower() for label, name in names.items())
    return same >= _SAME_NAMES * len(known)
