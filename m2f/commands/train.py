"""Trains a model on a dataset, evaluates it on the way, and keeps the best one. Started again with the same arguments,
it goes on from its last checkpoint.

In several processes: `accelerate launch [...] -m m2f train [...]`."""

import argparse
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers.utils import cached_file, logging

from m2f.checkpoints.bundled_checkpoint import checkpoint_location
from m2f.checkpoints.checkpoint_config import read_config
from m2f.commands.data_arguments import reader_option
from m2f.commands.messages import print_lines, printer
from m2f.commands.output_check import check_folder
from m2f.commands.shared_arguments import SHARED_ORDER, add_shared_arguments
from m2f.commands.train_arguments import add_option_arguments, options_from_arguments
from m2f.configuration.configuration_m2f import LICENSE_FIELD, M2FConfig
from m2f.data.augmentation_presets import augmentation_preset
from m2f.data.crowd_regions import ONLY_CROWDS
from m2f.data.dataset_formats import list_splits, open_dataset
from m2f.data.dataset_paths import split_of_name
from m2f.data.held_out_images import hold_out
from m2f.data.segmentation_dataset import SegmentationDataset, remarks_of
from m2f.hub.model_card import CARD_FILE, CardFacts, is_as_written, write_card
from m2f.hub.weights_license import checked_license, required_license
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.white_level import WhiteLevel, check_white_level
from m2f.inference.model_loading import find_device
from m2f.modeling_m2f.input_channels import input_channels_of
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.output.folder_lock import locked_folder
from m2f.training.adapter_folder import ADAPTER, adapter_size
from m2f.training.channel_statistics import channel_fields, settle_statistics
from m2f.training.class_weights import class_weights_of
from m2f.training.run_folder import TrainingDiverged, find_checkpoint
from m2f.training.starting_point import check_start, starting_model
from m2f.training.training_options import TrainingOptions
from m2f.training.training_run import RunOutcome, TrainingRun
from m2f.training.training_setup import NO_AUGMENTATION, make_accelerator
from m2f.validation.label_check import check_labels, dataset_classes

EXIT_DIVERGED = 1
EXIT_CODES = {EXIT_DIVERGED: "training diverged", "128 + N": "stopped by signal N; the same command goes on"}
NO_VALIDATION = "none"


def add_arguments(parser: argparse.ArgumentParser):
    add_option_arguments(parser, last=SHARED_ORDER)
    add_shared_arguments(parser, dry_run={})


def run(args: argparse.Namespace) -> int:
    options = options_from_arguments(args)
    find_device(options.device)  # one that is not there is an error
    check_folder(Path(options.output))
    if args.dry_run:
        print_lines(dry_run_lines(options))
        return 0
    return train(options)


def dry_run_lines(options: TrainingOptions) -> list[str]:
    """What would be done; the datasets are read, the model is not.

    Raises:
        ValueError, OSError: as `train`, of options and datasets.
    """
    checkpoint = find_checkpoint(options, lambda text: None)
    dataset, validation = open_datasets(options)
    if check_start(options) == "model":
        read_config(checkpoint_location(options.model))
    start = checkpoint or options.model or options.backbone or f"random weights of {options.scratch}"
    every = f"every {options.evaluate_every} steps" if options.evaluate_every else "at the end"
    evaluated = f"evaluate on {len(validation)} {every}" if validation else "not evaluate"
    return [
        f"would train {options.max_steps} steps of {options.batch_size} of {len(dataset)} images, and {evaluated}",
        f"would start from {start}",
        f"model, logs and checkpoints would be written into {options.output}",
    ]


def train(options: TrainingOptions) -> int:
    """A whole run. Gives the exit code: 0, 1 if training diverged, 128 + the signal's number if one stopped it.

    Raises:
        ValueError, OSError: options, files or values that do not fit.
    """
    logging.disable_progress_bar()  # transformers shows one for each file that it saves
    accelerator = make_accelerator(options)
    with locked_folder(options.output) if accelerator.is_main_process else nullcontext():
        return _train(options, accelerator)


def _train(options: TrainingOptions, accelerator: Accelerator) -> int:
    say = printer(accelerator.is_main_process)
    checkpoint = find_checkpoint(options, say)
    dataset, validation = open_datasets(options)
    say(f"{options.data}: {dataset.format}, {len(dataset)} images to train on, {dataset_classes(dataset)}")
    say(_evaluated_on(options, validation))
    set_seed(options.seed)
    model = starting_model(options, dataset, checkpoint)
    keep_license(model.config, options)
    processor = make_processor(options, model, checkpoint, say, dataset.white_level)
    for reader in (dataset, validation):
        if reader is not None:  # as the model will be used
            reader.white_level, reader.num_channels = processor.white_level, processor.num_channels
    settle_statistics(processor, dataset, options.on_broken_image == "skip", say)
    training = TrainingRun(
        options, model, processor, dataset, validation, checkpoint=checkpoint, accelerator=accelerator
    )
    try:
        outcome = training.run()
    except TrainingDiverged as error:
        say(f"training diverged: {error}")
        return EXIT_DIVERGED
    if accelerator.is_main_process and not outcome.stopped_by:
        write_model_card(Path(options.output), say)
        if training.state.plain_model.config.backbone_lora is not None:
            say(adapter_line(training.state.plain_model, Path(options.output)))
    say(closing_line(outcome, options))
    return 128 + outcome.stopped_by if outcome.stopped_by else 0


def open_datasets(options: TrainingOptions) -> tuple[SegmentationDataset, SegmentationDataset | None]:
    """The readers of training and evaluation, the second None where there is nothing to evaluate on.

    Raises:
        ValueError, OSError: from the readers; or the two have different classes, or class weights do not fit them.
    """
    if not options.data:
        raise ValueError("there is nothing to train on; give --data, a folder or an annotation file")
    check_white_level(options.white_level)
    dataset = _open(options, options.data, options.train_split, options.image_folder)
    for kind, text in remarks_of(dataset):
        if kind == ONLY_CROWDS:
            raise ValueError(f"there is nothing to learn in {options.data}: {text}")
    class_weights_of(options.class_weights, dataset.id2label)  # those that do not fit are an error
    split = _validation_split(options)
    if options.validation_fraction is not None:
        return hold_out(dataset, _checked_fraction(options, split))
    if split is None:
        return dataset, None
    path = options.validation_data or options.data
    folder = options.validation_image_folder or (None if options.validation_data else options.image_folder)
    validation = _open(options, path, split, folder)
    check_labels(validation.id2label, dataset.id2label, f"split {validation.split!r}, which evaluates,")
    return dataset, validation


def make_processor(
    options: TrainingOptions,
    model: M2FForUniversalSegmentation,
    checkpoint: Path | None,
    say: Callable[[str], None],
    white_level: WhiteLevel = None,
) -> M2FImageProcessor:
    """The image processor of a checkpoint that the run goes on from; else that of the options' model, for today's
    labels and the options' evaluation size; else a new one.

    Args:
        white_level: of the dataset, where the options have none.
    """
    if checkpoint is not None:
        return M2FImageProcessor.from_pretrained(checkpoint)
    fields: dict[str, Any] = {"task": model.config.task, "thing_label_ids": model.config.thing_label_ids}
    size = _evaluation_size(options)
    if size is not None:
        # A checkpoint's tiles belong to the scale that it was trained at; this run shows it whole images at another.
        fields |= {"size": size, "tile": None, "tile_overlap": None}
    if options.white_level is not None or white_level is not None:
        fields["white_level"] = white_level if options.white_level is None else options.white_level
    if options.panoptic_threshold is not None:
        fields["panoptic_threshold"] = options.panoptic_threshold
    fields |= channel_fields(input_channels_of(model))
    if options.model is None:
        return M2FImageProcessor(**fields)
    location = checkpoint_location(options.model)
    if cached_file(location, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False) is None:
        say(f"{options.model} has no image processor; a new one normalises as for ImageNet")
        return M2FImageProcessor(**fields)
    own = M2FImageProcessor.from_pretrained(location).num_channels
    if own == fields["num_channels"]:  # with its own mean and standard deviation
        fields = {name: value for name, value in fields.items() if name not in channel_fields(own)}
    return M2FImageProcessor.from_pretrained(location, **fields)


def keep_license(config: M2FConfig, options: TrainingOptions):
    """Record the licence that the weights of the options' model must keep in the new one's configuration.

    Raises:
        ValueError: the options state another one.
    """
    required = required_license(config.to_dict(), options.model)
    checked_license(options.license, required)
    if required is not None:
        setattr(config, LICENSE_FIELD, required)


def write_model_card(folder: Path, say: Callable[[str], None]):
    """README.md of the model in the folder. What nobody said is open there, until `m2f push` asks for it."""
    if (folder / CARD_FILE).is_file() and not is_as_written(folder):
        say(f"{folder / CARD_FILE} was changed by somebody and stays; `m2f push --new-card` writes it anew")
        return
    say(f"model card: {write_card(folder, CardFacts(), may_be_open=True)}")


def adapter_line(model: M2FForUniversalSegmentation, folder: Path) -> str:
    """How small the adapters are, beside the model that they are a part of."""
    size = adapter_size(model)
    weights = sum(path.stat().st_size for path in (folder / ADAPTER).glob("*.safetensors"))
    return (
        f"adapters: {folder / ADAPTER} ({weights / 1e6:.2f} MB: {size.parameters} parameters beside {size.layers} "
        f"layers, {size.share:.2%} of the model; its weights in {folder} have them too, and `m2f merge` adds them up)"
    )


def closing_line(outcome: RunOutcome, options: TrainingOptions) -> str:
    """Where the result is, and how good."""
    if outcome.stopped_by:
        name = signal.Signals(outcome.stopped_by).name
        return f"stopped by {name} after step {outcome.step}; the same command goes on from {outcome.checkpoint}"
    if outcome.best_step is None:
        return f"model: {options.output} (step {outcome.step}, not evaluated)"
    return f"best model: {options.output} ({outcome.metric} {outcome.best_metric:.4f} after step {outcome.best_step})"


def _open(options: TrainingOptions, path: str, split: str, image_folder: str | None) -> SegmentationDataset:
    reader_options = dict(map(reader_option, options.data_options))
    try:
        return open_dataset(path, split, options.data_format, image_folder, **reader_options)
    except TypeError as error:
        if not reader_options:
            raise
        raise ValueError(f"data_options {', '.join(options.data_options)} do not fit the format: {error}") from error


def _validation_split(options: TrainingOptions) -> str | None:
    if options.validation_split == NO_VALIDATION:
        return None
    if options.validation_split is not None or options.validation_data is not None:
        return options.validation_split or "val"
    splits = list_splits(options.data, options.data_format)
    return next((name for name in splits if split_of_name(name) == "val"), None)


def _checked_fraction(options: TrainingOptions, split: str | None) -> float:
    """The share of images that is held out.

    Args:
        split: that is evaluated on otherwise.

    Raises:
        ValueError: there is another split, or other data, to evaluate on.
    """
    assert options.validation_fraction is not None
    names = ("validation_split", "validation_data", "validation_image_folder")
    given = [name for name in names if getattr(options, name) is not None]
    if given:
        raise ValueError(
            f"validation_fraction is {options.validation_fraction} and {given[0]} is {getattr(options, given[0])!r}; "
            "give one of the two"
        )
    if split is not None:
        raise ValueError(
            f"validation_fraction is {options.validation_fraction}, but {options.data} has the split {split!r} to "
            "evaluate on; leave the fraction out, or give the part to train on alone as --data"
        )
    return options.validation_fraction


def _evaluated_on(options: TrainingOptions, validation: SegmentationDataset | None) -> str:
    if validation is None:
        return "no evaluation"
    if options.validation_fraction is None:
        return f"{len(validation)} images of split {validation.split!r} to evaluate on"
    return (
        f"{len(validation)} further images of split {options.train_split!r} held out to evaluate on, those whose "
        f"names' hashes are in the first {options.validation_fraction:g} of all (--validation-fraction)"
    )


def _evaluation_size(options: TrainingOptions) -> dict[str, int] | None:
    edges = {"shortest_edge": options.shortest_edge, "longest_edge": options.longest_edge}
    given = {name: value for name, value in edges.items() if value is not None}
    if given or options.augmentation == NO_AUGMENTATION:
        return given or None
    return augmentation_preset(options.augmentation, options.crop_size).processor_size
