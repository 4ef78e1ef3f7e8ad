"""The model that a run starts with: a checkpoint, a pretrained backbone, or random weights."""

import difflib
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import cached_file, logging

from m2f.checkpoints.bundled_checkpoint import checkpoint_location
from m2f.checkpoints.checkpoint_config import check_channels, input_channels, read_config
from m2f.checkpoints.json_object import read_json_object
from m2f.data.segmentation_dataset import SegmentationDataset
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.input_channels import input_channels_of, with_input_channels
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.backbone_training import check_backbone_training
from m2f.training.training_options import TrainingOptions
from m2f.validation.label_check import check_labels, dataset_classes, label_fields

logger = logging.get_logger(__name__)

_CONFIG_CLASS = M2FForUniversalSegmentation.config_class
_CLASSIFIER = ("class_predictor.", "criterion.")
_NEW_MODEL_OPTIONS = ("num_queries", "drop_path_rate", "frozen_batch_norm")


def starting_model(
    options: TrainingOptions, dataset: SegmentationDataset, checkpoint: Path | None = None
) -> M2FForUniversalSegmentation:
    """The model of the options, for the classes of the dataset; or that of the run's own checkpoint, to go on with.

    Raises:
        ValueError: not exactly one of `model`, `backbone` and `scratch` is given; the classes do not fit a checkpoint;
            a configuration has unknown fields; the first layer cannot be adapted to the channels; or from
            `check_backbone_training`.
        OSError: a file cannot be found or read.
        CheckpointMismatchError: a checkpoint's tensors are not those of its configuration.
    """
    if checkpoint is not None:
        check_backbone_training(options, _CONFIG_CLASS.from_pretrained(checkpoint))
        model = M2FForUniversalSegmentation.from_pretrained(checkpoint)
        check_labels(model.config.id2label, dataset.id2label, str(checkpoint))
        if options.channels not in (None, input_channels_of(model)):
            raise ValueError(
                f"channels is {options.channels}, and the run that goes on from {checkpoint} has "
                f"{input_channels_of(model)}; leave --channels as it was, or choose another --output"
            )
        return model
    start = {"model": _from_checkpoint, "backbone": _from_backbone, "scratch": _from_scratch}[check_start(options)]
    model = start(options, dataset)
    return model if options.channels is None else with_input_channels(model, options.channels)


def check_start(options: TrainingOptions) -> str:
    """Which of the options names what a new run starts from.

    Raises:
        ValueError: not exactly one of `model`, `backbone` and `scratch` is given, or another does not fit it.
    """
    given = [name for name in ("model", "backbone", "scratch") if getattr(options, name)]
    if len(given) != 1:
        raise ValueError(
            f"{' and '.join(f'--{name}' for name in given) or 'nothing'} given to start from; give one of --model "
            "(a checkpoint), --backbone (a pretrained backbone) and --scratch (a config.json, random weights)"
        )
    if options.reset_classifier and not options.model:
        raise ValueError("--reset-classifier belongs to --model; other models start with a new classifier anyway")
    return given[0]


def enable_gradient_checkpointing(model: PreTrainedModel):
    """By the method's name in the installed transformers; 5.23 has renamed it and warns of the old one."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


def _from_checkpoint(options: TrainingOptions, dataset: SegmentationDataset) -> M2FForUniversalSegmentation:
    for name in _NEW_MODEL_OPTIONS:
        if getattr(options, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} belongs to a new model, and --model {options.model} has its own; leave "
                "it out, or start with --backbone or --scratch"
            )
    assert options.model is not None  # `check_start` chose by it
    location = checkpoint_location(options.model)
    _check_images(options.model, location, read_config(location))
    check_backbone_training(options, _CONFIG_CLASS.from_pretrained(location))
    model = M2FForUniversalSegmentation.from_pretrained(location)
    if options.reset_classifier:
        return _with_new_classifier(model, dataset)
    check_labels(model.config.id2label, dataset.id2label, options.model)
    _update(model.config, dataset)
    return model


def _check_images(name: str, location: str, fields: dict[str, Any]):
    """Raise ValueError unless a checkpoint's image processor, if there is one, gives what its model takes."""
    if cached_file(location, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False) is not None:
        check_channels(name, input_channels(fields), M2FImageProcessor.from_pretrained(location).num_channels)


def _with_new_classifier(
    model: M2FForUniversalSegmentation, dataset: SegmentationDataset
) -> M2FForUniversalSegmentation:
    """What `from_pretrained(..., ignore_mismatched_sizes=True)` gives, for the tensors that belong to the classes
    alone, and for them even if there happen to be as many classes as before."""
    config = type(model.config).from_dict(model.config.to_dict())
    _update(config, dataset)
    config.class_weights = None  # of the former classes
    new = M2FForUniversalSegmentation(config)
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(_CLASSIFIER)}
    missing = new.load_state_dict(kept, strict=False).missing_keys
    logger.warning(f"New random weights for {dataset_classes(dataset)}: {', '.join(sorted(missing))}")
    return new


def _from_backbone(options: TrainingOptions, dataset: SegmentationDataset) -> M2FForUniversalSegmentation:
    assert options.backbone is not None  # `check_start` chose by it
    fields = {**label_fields(dataset), **_new_model_fields(options)}
    if options.drop_path_rate is not None:
        fields["backbone_kwargs"] = {"drop_path_rate": options.drop_path_rate}
    config = _CONFIG_CLASS(**{"backbone": options.backbone, **fields})
    check_backbone_training(options, config)
    return M2FForUniversalSegmentation.from_pretrained_backbone(options.backbone, config=config)


def _from_scratch(options: TrainingOptions, dataset: SegmentationDataset) -> M2FForUniversalSegmentation:
    assert options.scratch is not None  # `check_start` chose by it
    fields = _read_config(Path(options.scratch))
    for name in ("num_labels", "id2label", "label2id"):
        fields.pop(name, None)
    of_backbone = {"drop_path_rate": options.drop_path_rate, "num_channels": options.channels}
    of_backbone = {name: value for name, value in of_backbone.items() if value is not None}
    if of_backbone:
        backbone = fields.get("backbone_config") or {}
        if not isinstance(backbone, dict):
            raise ValueError(f"{options.scratch}: backbone_config is a {type(backbone).__name__}; fields are needed")
        fields["backbone_config"] = {**backbone, **of_backbone}
    fields.update({**label_fields(dataset), **_new_model_fields(options)})
    config = _CONFIG_CLASS.from_dict(fields)
    check_backbone_training(options, config)
    return M2FForUniversalSegmentation(config)


def _new_model_fields(options: TrainingOptions) -> dict[str, Any]:
    fields = {"num_queries": options.num_queries, "backbone_frozen_batch_norm": options.frozen_batch_norm}
    return {name: value for name, value in fields.items() if value is not None}


def _read_config(path: Path) -> dict[str, Any]:
    """The fields of a config.json; transformers would take a misspelled one for an extra."""
    fields = read_json_object(path)
    # num_labels is id2label's length, and model_type stands for the class.
    known = {*_CONFIG_CLASS().to_dict(), "num_labels"}
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            raise ValueError(f"{path}: unknown field {name!r}; did you mean {', '.join(near) or 'another'}?")
    return fields


def _update(config: PretrainedConfig, dataset: SegmentationDataset):
    for name, value in label_fields(dataset).items():
        setattr(config, name, value)
