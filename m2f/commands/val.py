"""Measures a checkpoint on a dataset: PQ, AP and mIoU as the checkpoint and the labels allow, from one pass over the
images; writes the predictions in the official formats.

In several processes: `accelerate launch [...] -m m2f val [...]`."""

import argparse
import json
import math
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers.utils import logging

from m2f.commands.data_arguments import add_data_arguments
from m2f.commands.messages import print_lines, printer
from m2f.commands.output_check import check_folder
from m2f.commands.shared_arguments import AUTO_BATCH, MIXED_PRECISION, add_shared_arguments, count, count_or_zero
from m2f.commands.tile_arguments import add_tile_arguments
from m2f.commands.white_level_argument import add_white_level_argument
from m2f.data.dataset_formats import list_splits, open_dataset
from m2f.data.dataset_paths import split_of_name
from m2f.data.held_out_images import hold_out
from m2f.data.segmentation_dataset import SegmentationDataset
from m2f.evaluation.measuring_machine import measuring_machine
from m2f.evaluation.result_folder import ResultFolder, without_nan
from m2f.image_processing.image_processing_m2f import TASKS
from m2f.image_processing.tile_setting import choose_tile
from m2f.inference.model_loading import find_device, load_model
from m2f.output.folder_lock import locked_folder
from m2f.validation.accelerator_device import accelerator_on
from m2f.validation.checkpoint_tasks import Checkpoint, choose_tasks
from m2f.validation.evaluation_batches import ONE_VIEW, TestTimeView
from m2f.validation.label_check import dataset_classes
from m2f.validation.task_metric import MAX_INSTANCES, MAX_TILED_INSTANCES
from m2f.validation.tiled_predictor import TiledPredictor
from m2f.validation.validation_run import Validation, dataset_numbers, validate

_PACKAGES = ("torch", "transformers", "accelerate", "numpy", "pillow", "pycocotools", "faster-coco-eval")
_CLASS_COLUMN = {"panoptic": "PQ", "instance": "AP", "semantic": "IoU"}  # that the picture of the classes shows
_COLUMNS = 9  # numbers side by side


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="of m2f or transformers' mask2former: folder, Hub id")
    parser.add_argument("data", metavar="DATA", help="folder or annotation file")
    task = "measure this; may be repeated (all that checkpoint and labels allow)"
    parser.add_argument("--task", action="append", choices=TASKS, default=[], help=task)
    trained_for = "what the checkpoint was trained for, where it does not say (what the labels are made for)"
    parser.add_argument("--trained-for", choices=TASKS, help=trained_for)
    parser.add_argument("--split", metavar="NAME", help="split (the one called val, valid, validation or dev)")
    fraction = "of --split (the one that is for training), the images that m2f train holds out for this share"
    parser.add_argument("--validation-fraction", type=float, metavar="X", help=fraction)
    add_data_arguments(parser)
    parser.add_argument("--on-broken-image", choices=("raise", "skip"), default="raise", help="(%(default)s)")
    parser.add_argument("--shortest-edge", type=count, metavar="N", help="resize images to this (the checkpoint's)")
    parser.add_argument("--longest-edge", type=count, metavar="N", help="but to no more than this")
    threshold = "class probability that makes a query a panoptic segment (the checkpoint's)"
    parser.add_argument("--panoptic-threshold", type=float, metavar="X", help=threshold)
    threshold = "lowest score of an instance; AP needs all of them (0)"
    parser.add_argument("--threshold", type=float, default=0.0, metavar="X", help=threshold)
    most = f"of an image ({MAX_INSTANCES}; {MAX_TILED_INSTANCES} in tiles)"
    parser.add_argument("--max-detections", type=count, metavar="N", help=most)
    add_tile_arguments(parser)
    add_white_level_argument(parser)
    parser.add_argument("--boundary", action="store_true", help="boundary AP too")
    parser.add_argument("--flip", action="store_true", help="semantic: average with the mirrored image")
    scales = "semantic: average over these sizes of the image, such as 0.5,0.75,1,1.25,1.5,1.75"
    parser.add_argument("--scales", type=_scales, default=(1.0,), metavar="X,...", help=scales)
    add_shared_arguments(
        parser,
        config={},
        device={},
        cpu={},
        dtype=MIXED_PRECISION,
        batch_size=AUTO_BATCH,
        workers={"type": count_or_zero, "default": 2, "help": "processes that read images (2)"},
        output={"help": "write predictions, numbers and settings into this folder"},
        overwrite={},
        json={},
        dry_run={},
    )


def run(args: argparse.Namespace) -> int:
    logging.disable_progress_bar()
    accelerator = _accelerator(args)
    say = printer(accelerator.is_main_process)
    if args.output is not None:
        check_folder(args.output)
    dataset = open_validation_data(args)
    say(f"{args.data}: {dataset.format}, {len(dataset)} images of split {dataset.split!r}, {dataset_classes(dataset)}")
    loading = {"like": dataset, "trained_for": args.trained_for, "say": say}
    checkpoint = Checkpoint(*load_model(args.checkpoint, **loading, **_processor_fields(args)))
    dataset.num_channels = checkpoint.processor.num_channels
    if args.white_level is not None or dataset.white_level is None:
        dataset.white_level = checkpoint.processor.white_level
    tasks, views = choose_tasks(checkpoint, dataset, args.task), _views(args)
    args = _with_tiles(args, checkpoint)
    if views != ONE_VIEW and tasks != ["semantic"]:
        raise ValueError(
            f"--flip and --scales average semantic scores, and {', '.join(tasks)} would be measured; give --task "
            "semantic alone"
        )
    if views != ONE_VIEW and args.tile:
        raise ValueError(f"--flip and --scales are for whole images, not for tiles of {args.tile}; give --tile 0")
    if args.dry_run:
        for line in dry_run_lines(args, dataset, tasks):
            say(line)
        return 0
    locked = args.output is not None and accelerator.is_main_process
    with locked_folder(args.output) if locked else nullcontext():
        _measure(args, accelerator, checkpoint, dataset, tasks, views)
    accelerator.end_training()  # leaves the group of processes
    return 0


def _measure(
    args: argparse.Namespace,
    accelerator: Accelerator,
    checkpoint: Checkpoint,
    dataset: SegmentationDataset,
    tasks: list[str],
    views: tuple[TestTimeView, ...],
):
    folder = _begin_output(args, accelerator)
    result = validate(
        checkpoint,
        dataset,
        tasks,
        accelerator,
        max_detections=args.max_detections,
        threshold=args.threshold,
        boundary=args.boundary,
        output=args.output,
        views=views,
        predict=_tile_predictor(args, checkpoint, tasks) if args.tile else None,
        batch_size=args.batch_size,
        workers=args.workers,
        skip_broken=args.on_broken_image == "skip",
        progress=accelerator.is_main_process and sys.stderr.isatty(),
    )
    if accelerator.is_main_process:
        record = _record(args, checkpoint, dataset, result, accelerator.num_processes)
        if args.json:
            print(json.dumps(without_nan(record), indent=1))
        else:
            print_lines(result_lines(result, args))
        if folder:
            _finish_output(folder, result, record, dataset)
            printer(True)(f"predictions and numbers: {folder.path}")


def _with_tiles(args: argparse.Namespace, checkpoint: Checkpoint) -> argparse.Namespace:
    """The arguments with what the checkpoint says about tiles and what follows from them; tile 0 for none."""
    processor = checkpoint.processor
    tile, overlap = choose_tile(args.tile, args.tile_overlap, processor.tile, processor.tile_overlap)
    most = args.max_detections or (MAX_INSTANCES if tile is None else MAX_TILED_INSTANCES)
    settled = {"tile": tile or 0, "tile_overlap": overlap, "max_detections": most}
    return argparse.Namespace(**{**vars(args), **settled})


def _tile_predictor(args: argparse.Namespace, checkpoint: Checkpoint, tasks: Sequence[str]) -> TiledPredictor:
    return TiledPredictor(
        checkpoint.model,
        checkpoint.processor,
        tasks,
        threshold=args.threshold,
        max_detections=args.max_detections,
        tile=args.tile,
        tile_overlap=args.tile_overlap,
        batch_size=args.batch_size,
    )


def open_validation_data(args: argparse.Namespace) -> SegmentationDataset:
    """The reader of the split.

    Raises:
        ValueError, OSError: from the reader; no split is named like one for validation; an option does not fit.
    """
    options = dict(args.data_options)
    if options.get("ignore_unknown") is False:
        raise ValueError(
            "ignore_unknown=false makes background of pixels that are not labelled, so that predictions there would "
            "count as wrong; leave it out"
        )
    try:
        dataset = open_dataset(args.data, _chosen_split(args), args.format, args.image_folder, **options)
    except TypeError as error:
        if not options:
            raise
        raise ValueError(f"--data-options {', '.join(options)} do not fit the format: {error}") from error
    return dataset if args.validation_fraction is None else hold_out(dataset, args.validation_fraction)[1]


def _chosen_split(args: argparse.Namespace) -> str:
    """The split that is asked for; else the one for validation or, where a part of it was held out, for training."""
    if args.split:
        return args.split
    splits = list_splits(args.data, args.format)
    wanted = "val" if args.validation_fraction is None else "train"
    split = next((name for name in splits if split_of_name(name) == wanted), None)
    is_only = Path(args.data).is_file() if args.validation_fraction is None else len(splits) == 1
    if split is None and not is_only:
        kind = "validation" if wanted == "val" else "training"
        raise ValueError(f"{args.data} has the splits {', '.join(splits)}, none of which is for {kind}; give --split")
    return split or splits[0]


def dry_run_lines(args: argparse.Namespace, dataset: SegmentationDataset, tasks: list[str]) -> list[str]:
    """What would be done.

    Raises:
        ValueError, OSError: the output folder cannot take the results.
    """
    lines = [f"would measure {', '.join(tasks)} of {args.checkpoint} on {len(dataset)} images"]
    if args.output is not None:
        found = ResultFolder(args.output, args.overwrite).check()
        instead = ", in place of the results there" if found else ""
        lines.append(f"predictions and numbers would be written into {args.output}{instead}")
    return lines


def result_lines(result: Validation, args: argparse.Namespace) -> Iterator[str]:
    """The numbers as text."""
    speed = result.images / max(result.seconds, 1e-9)
    yield f"{args.checkpoint}: {result.images} images in {result.seconds:.1f} s ({speed:.2f} a second)"
    for task, numbers in result.results.items():
        tiles = f", tiles of {args.tile} pixels, {args.tile_overlap} in common" if args.tile else ""
        limit = f", at most {args.max_detections} detections of an image" if task == "instance" else ""
        yield ""
        yield f"{task}{tiles}{limit}"
        names = list(numbers)
        for start in range(0, len(names), _COLUMNS):
            row = names[start : start + _COLUMNS]
            widths = [max(8, len(name) + 2) for name in row]
            yield "".join(f"{name:>{width}}" for name, width in zip(row, widths, strict=True))
            yield "".join(f"{_number(numbers[name]):>{width}}" for name, width in zip(row, widths, strict=True))


def _accelerator(args: argparse.Namespace) -> Accelerator:
    find_device(args.device)  # one that is not there is an error
    accelerator = accelerator_on(args.device, mixed_precision=args.mixed_precision)
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":  # Accelerate would use float32
        raise ValueError("--dtype float16 needs a GPU; on a CPU use bfloat16 or float32")
    return accelerator


def _begin_output(args: argparse.Namespace, accelerator: Accelerator) -> ResultFolder | None:
    """The folder, ready for every process."""
    if args.output is None:
        return None
    folder = ResultFolder(args.output, args.overwrite)
    if accelerator.is_main_process:
        folder.begin()
    accelerator.wait_for_everyone()
    return folder


def _finish_output(folder: ResultFolder, result: Validation, record: Mapping[str, Any], dataset: SegmentationDataset):
    for task, rows in result.per_class.items():
        folder.write_table(task, rows, _CLASS_COLUMN[task])
    names = [dataset.name_of(index) for index in range(len(dataset))]
    # What the numbers in instances.json stand for, where the dataset has none of its own.
    numbered = {} if hasattr(dataset, "category_ids") else {"image_ids": dict(enumerate(names))}
    numbers = dict(zip(dataset_numbers(dataset), dataset.id2label.values(), strict=True))
    folder.finish({**record, "category_ids": numbers, **numbered})


def _record(
    args: argparse.Namespace, checkpoint: Checkpoint, dataset: SegmentationDataset, result: Validation, processes: int
) -> dict[str, Any]:
    processor = checkpoint.processor
    settings = {name: value for name, value in vars(args).items() if name not in ("run", "prog", "debug", "json")}
    return {
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()},
        "dataset": {"format": dataset.format, "split": dataset.split, "images": len(dataset)},
        "trained_for": checkpoint.trained_for,
        "processor": {
            "size": dict(processor.size),
            "panoptic_threshold": processor.panoptic_threshold,
            **({} if dataset.white_level is None else {"white_level": dataset.white_level}),
        },
        "versions": _versions(),
        "machine": measuring_machine(next(checkpoint.model.parameters()).device, processes),
        "images": result.images,
        "seconds": round(result.seconds, 3),
        "results": result.results,
        "per_class": result.per_class,
    }


def _versions() -> dict[str, str]:
    versions = {"m2f": sys.modules["m2f"].__version__, "python": platform.python_version()}
    installed = {entry.metadata["Name"].lower() for entry in metadata.distributions()}
    return versions | {name: metadata.version(name) for name in _PACKAGES if name in installed}


def _processor_fields(args: argparse.Namespace) -> dict[str, Any]:
    edges = {"shortest_edge": args.shortest_edge, "longest_edge": args.longest_edge}
    size = {name: value for name, value in edges.items() if value is not None}
    fields = {
        "size": size or None,
        "panoptic_threshold": args.panoptic_threshold,
        "white_level": args.white_level,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _views(args: argparse.Namespace) -> tuple[TestTimeView, ...]:
    flips = (False, True) if args.flip else (False,)
    return tuple(TestTimeView(scale, flipped) for scale in args.scales for flipped in flips)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _scales(text: str) -> tuple[float, ...]:
    """Different positive numbers between commas."""
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 < scale <= 16 for scale in scales) or len(set(scales)) < len(scales):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different numbers above 0, such as 0.5,1,1.5")
    return scales
