"""What `M2FTrainer` looks at before training begins, so that a mistake costs no run."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from m2f.data.training_dataset import TrainingDataset
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.parameter_groups import parameter_groups
from m2f.validation.label_check import check_labels
from m2f.validation.task_metric import METRICS

_READER_ATTRIBUTES = ("id2label", "thing_label_ids", "task", "image_path", "name_of")
_NOT_CALLED = ("compute_metrics", "compute_loss_func", "preprocess_logits_for_metrics")
_WITHOUT_USE = ("label_smoothing_factor", "fp16_full_eval", "bf16_full_eval")


def check_extras(trainer_arguments: Mapping[str, Any]):
    """Functions that Trainer would call.

    Raises:
        ValueError: one that M2FTrainer does not call.
    """
    for name in _NOT_CALLED:
        if trainer_arguments.get(name) is not None:
            raise ValueError(f"{name} is given, which M2FTrainer does not call; leave it out, or use Trainer")


def check_model(model: Any, processor: Any):
    """
    Raises:
        TypeError: another model, or a processor that cannot post-process its outputs.
    """
    wanted = M2FForUniversalSegmentation
    # By its configuration, because wrappers (PEFT) and copies from the Hub have classes of their own.
    is_ours = getattr(getattr(model, "config", None), "model_type", None) == wanted.config_class.model_type
    if not is_ours or not getattr(model, "accepts_loss_kwargs", False):
        raise TypeError(
            f"M2FTrainer trains {wanted.__name__}, got {type(model).__name__}; transformers.Trainer trains others"
        )
    if not hasattr(processor, "post_process_instance_segmentation"):
        raise TypeError(f"processing_class must be the model's image processor, got {type(processor).__name__}")


def check_settings(args: Any, task: str | None):
    """
    Raises:
        ValueError: an unknown task, training arguments that have no meaning here, or several GPUs in one process.
    """
    if task is not None and task not in METRICS:
        raise ValueError(f"task is {task!r}; it must be one of {', '.join(METRICS)}")
    for name in _WITHOUT_USE:
        if getattr(args, name):
            raise ValueError(f"M2FTrainer has no use for {name}={getattr(args, name)}; leave it out")
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs in one process, which would split each batch; start a process for each with "
            "`accelerate launch`, or make one visible with CUDA_VISIBLE_DEVICES=0"
        )


def check_layer_decay(model: nn.Module, layer_decay: float | None):
    """
    Args:
        model: ours, perhaps with a wrapper around it.

    Raises:
        ValueError: no factor in (0, 1], nothing of the backbone is trained, or it does not tell how deep its layers
            lie.
    """
    if layer_decay is None:
        return
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay is {layer_decay}; it must be above 0 and at most 1")
    groups = parameter_groups(model, lr=1.0, weight_decay=0.0, layer_decay=layer_decay)
    if not any(group["name"].startswith("backbone") for group in groups):
        raise ValueError(f"layer_decay is {layer_decay}, and nothing of the backbone is trained; leave it out")


def check_training_data(dataset: Any, config: Any, with_own_collator: bool):
    """A data collator of the caller's may take anything; the classes of a reader are looked at all the same.

    Raises:
        TypeError, ValueError: see `check_reader`.
    """
    reader = dataset.dataset if isinstance(dataset, TrainingDataset) else dataset
    if reader is not None and not (with_own_collator and _missing(reader)):
        check_reader(reader, "train_dataset", config)


def check_evaluation_data(dataset: Any, config: Any, args: Any, task: str | None):
    """
    Args:
        dataset: a reader, a dict of readers, or None.

    Raises:
        TypeError, ValueError: see `check_reader`.
        ValueError: `metric_for_best_model` is not measured on it.
    """
    if dataset is None:
        return
    by_name = dataset if isinstance(dataset, dict) else {"": dataset}
    for name, reader in by_name.items():
        check_reader(reader, f"eval_dataset[{name!r}]" if name else "eval_dataset", config)
    wanted = args.metric_for_best_model
    if wanted is None or args.eval_strategy == "no":
        return
    prefixes = {"eval_" + (f"{name}_" if name else ""): reader.task for name, reader in by_name.items()}
    known = [prefix + metric for prefix, own in prefixes.items() for metric in METRICS[task or own]]
    if f"eval_{wanted.removeprefix('eval_')}" not in known:
        raise ValueError(
            f"metric_for_best_model is {wanted!r} (transformers' default is 'loss'), which M2FTrainer does not "
            f"measure; give one of {', '.join(known)}"
        )


def check_reader(dataset: Any, name: str, config: Any):
    """
    Args:
        name: what the message calls it.
        config: the model's.

    Raises:
        TypeError: no reader.
        ValueError: its classes are not the model's.
    """
    if isinstance(dataset, TrainingDataset):
        raise TypeError(f"{name} is a TrainingDataset, which augments; give its reader, the attribute `dataset`")
    if missing := _missing(dataset):
        raise TypeError(
            f"{name} is a {type(dataset).__name__}, which is no reader (it has no {', '.join(missing)}); open it with "
            "m2f.data.dataset_formats.open_dataset, which takes folders, json files and datasets.Dataset"
        )
    try:
        check_labels(config.id2label, dataset.id2label, "the model")
    except ValueError as error:
        remedy = "from_pretrained(..., id2label=dataset.id2label, label2id=..., ignore_mismatched_sizes=True)"
        raise ValueError(f"{name}: {error}. In Python, {remedy} does the former") from error


def _missing(dataset: Any) -> list[str]:
    return [name for name in _READER_ATTRIBUTES if not hasattr(dataset, name)]
