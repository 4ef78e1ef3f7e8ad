"""The model and the image processor of a checkpoint, ready to predict."""

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from transformers.utils import cached_file, logging

from m2f.checkpoints.bundled_checkpoint import checkpoint_location
from m2f.checkpoints.checkpoint_config import check_channels, input_channels, read_config
from m2f.configuration.configuration_m2f import M2FConfig
from m2f.data.segmentation_dataset import SegmentationDataset, thing_labels
from m2f.exported.exported_network import ExportedNetwork, is_graph
from m2f.image_processing.image_processing_m2f import TASKS, M2FImageProcessor
from m2f.modeling_m2f.checkpoint_report import CheckpointMismatchError
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

logger = logging.get_logger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    checkpoint: str | os.PathLike | None,
    task: str | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    trained_for: str | None = None,
    like: SegmentationDataset | None = None,
    say: Callable[[str], None] = logger.warning,
    **processor_fields: Any,
) -> tuple[M2FForUniversalSegmentation, M2FImageProcessor]:
    """A checkpoint of m2f or of transformers' mask2former, in evaluation mode; or a graph of `m2f export`.

    The latter does not say what it was trained for, nor which classes are things. It is taken for `task`, or for
    panoptic; with `like` for what that dataset's labels are made for, with its things. `say` is told so.

    Args:
        checkpoint: folder, Hub id or a bundled checkpoint's name; None: the default one of these. Or the file of an
            exported graph.
        task: that is wanted.
        device: where the model is put; None: it stays on the CPU.
        dtype: of the weights; None: that of the files, which may be float16 to save space.
        trained_for: task, in place of the checkpoint's own.
        like: the dataset that the model will be measured on.
        say: called with lines for the person at the terminal.
        processor_fields: settings of the image processor in place of the checkpoint's.

    Raises:
        OSError: it cannot be found or read.
        ValueError: it is of another kind, of a newer version of m2f, or its tensors are not those of its
            configuration.
    """
    if is_graph(checkpoint):
        return _exported(checkpoint, device, dtype, trained_for, say, processor_fields)
    name = checkpoint_location(checkpoint)
    fields = read_config(name)
    trained_for = trained_for or fields.get("task") or _assumed_task(name, task, like, say)
    channels = input_channels(fields)
    processor = _processor(name, channels, {"task": trained_for, **processor_fields}, say)
    check_channels(name, channels, processor.num_channels)
    try:
        model = M2FForUniversalSegmentation.from_pretrained(name, dtype=dtype)
    except CheckpointMismatchError as error:
        raise ValueError(str(error)) from error
    things = _things(model.config, fields, like) if trained_for == "panoptic" else None
    if "thing_label_ids" not in processor_fields:
        processor.thing_label_ids = None if things is None else sorted(map(int, things))
    return model.eval().to(device or model.device), processor


def _exported(
    graph: Any,
    device: torch.device | None,
    dtype: torch.dtype | None,
    trained_for: str | None,
    say: Callable[[str], None],
    processor_fields: Mapping[str, Any],
) -> tuple[Any, M2FImageProcessor]:
    """What a graph of `m2f export` has, which stands in for the model; its sizes and types are its own."""
    if dtype not in (None, torch.float32):
        raise ValueError(
            f"{graph} is an exported graph, which runs as torch.float32; the dtype {dtype} is for checkpoints"
        )
    if device is not None and device.type != "cpu":  # perhaps by default, where there is a GPU
        say(f"{graph} is an exported graph, which runs on the CPU")
    network = ExportedNetwork(graph)
    if trained_for not in (None, network.config.task):
        raise ValueError(f"{graph} says that it was trained for {network.config.task}; leave --trained-for out")
    if network.form.size is not None and processor_fields.get("size") is not None:
        raise ValueError(
            f"{graph} was exported for {network.form.size[0]} x {network.form.size[1]}; leave the size out"
        )
    return network.eval(), network.processor(**processor_fields)


def told_apart(processor: M2FImageProcessor, labels: Collection[int]) -> list[int]:
    """The labels of a model whose objects it tells apart.

    Args:
        processor: of the same checkpoint.
        labels: all of the model's.
    """
    if processor.task == "semantic":
        return []
    things = None if processor.task == "instance" else processor.thing_label_ids
    return sorted(labels if things is None else set(labels) & set(things))


def find_device(name: str | torch.device | None) -> torch.device:
    """The device of a name such as "cpu" or "cuda:1"; without a name the GPU, or the CPU if there is none.

    Raises:
        ValueError: there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}; use cpu, cuda, cuda:1 and the like") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device {name}: {torch.cuda.device_count()} CUDA devices were found; use cpu")
    try:
        torch.empty(0, device=device)
    # The errors of a device that PyTorch knows and this machine or build does not have.
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(f"device {name} cannot be used here ({reason}); use cpu") from error
    return device


def find_dtype(name: str | torch.dtype | None) -> torch.dtype:
    """The type of a name: float32 (the default), bfloat16 or float16.

    Raises:
        ValueError: another name.
    """
    if name is None:
        return torch.float32
    dtype = DTYPES.get(str(name).removeprefix("torch."))
    if dtype is None:
        raise ValueError(f"unknown dtype {name!r}; use {', '.join(DTYPES)}")
    return dtype


def tasks_of(trained_for: str, has_things: bool = True) -> tuple[str, ...]:
    """What a model that is trained for a task can predict, and what labels made for it can measure, that task first.
    Labels of objects do not say what the other pixels are."""
    if trained_for != "panoptic":
        return (trained_for,)
    return TASKS if has_things else tuple(task for task in TASKS if task != "instance")


def choose_task(wanted: str | None, trained_for: str, has_things: bool) -> str:
    """The wanted task; the one that the model was trained for if none is.

    Raises:
        ValueError: no such task, or the model cannot do it.
    """
    possible = tasks_of(trained_for, has_things)
    if wanted is None:
        return possible[0]
    if wanted not in possible:
        raise ValueError(
            f"task {wanted!r} is not possible: a checkpoint trained for {trained_for}"
            f"{'' if has_things else ' without things'} predicts {', '.join(possible)}"
        )
    return wanted


def _assumed_task(name: str, task: str | None, like: SegmentationDataset | None, say: Callable[[str], None]) -> str:
    if like is not None:
        say(f"{name} does not say what it was trained for; taken as {like.task} (--trained-for)")
        return like.task
    if task is None:
        say(f"{name} does not say what it was trained for; taken as panoptic. Give the task otherwise.")
    return task or "panoptic"


def _things(config: M2FConfig, fields: Mapping[str, Any], like: SegmentationDataset | None) -> list[int] | None:
    """Of a panoptic checkpoint; None: all labels.

    Args:
        fields: of its config.json.
    """
    if like is None:
        return config.thing_label_ids
    names = {int(label): name for label, name in (config.id2label or {}).items()}
    if "thing_label_ids" in fields:
        return sorted(names if fields["thing_label_ids"] is None else fields["thing_label_ids"])
    of_data = thing_labels(like)
    known = {like.id2label[label] for label in of_data}
    # Where classes have no names, they are those of the dataset by their numbers.
    return sorted(label for label, name in names.items() if name in known) or of_data


def _processor(name: str, channels: int, settings: dict[str, Any], say: Callable[[str], None]) -> M2FImageProcessor:
    if cached_file(name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False) is None:
        say(f"{name} has no image processor; a new one resizes to 800 / 1333 pixels and normalises as for ImageNet")
        return M2FImageProcessor(**{"num_channels": channels, **settings})
    return M2FImageProcessor.from_pretrained(name, **settings)
