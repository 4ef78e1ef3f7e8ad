"""Measures a checkpoint on a dataset: PQ, AP and mIoU as the checkpoint and the labels allow, from one pass over the
images; writes the predictions in the official formats.

In several processes: `accelerate launch [...] -m m2f val [...]`."""

import argparse
import json
import math
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers.utils import logging

from m2f.commands.data_arguments import add_data_arguments
from m2f.commands.messages import printer
from m2f.data.dataset_formats import list_splits, open_dataset
from m2f.data.dataset_paths import split_of_name
from m2f.evaluation.result_folder import ResultFolder, without_nan
from m2f.training.checkpoint_tasks import TASKS_OF, Checkpoint, choose_tasks, load_checkpoint
from m2f.training.evaluation_batches import ONE_VIEW, View
from m2f.training.label_check import dataset_classes
from m2f.training.task_measurement import MAX_INSTANCES
from m2f.training.validation_run import Validation, dataset_numbers, validate

_PACKAGES = ("torch", "transformers", "accelerate", "numpy", "pillow", "pycocotools", "faster-coco-eval")
_CLASS_COLUMN = {"panoptic": "PQ", "instance": "AP", "semantic": "IoU"}  # that the picture of the classes shows
_COLUMNS = 9  # numbers side by side


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="of m2f or transformers' mask2former: folder, Hub id")
    parser.add_argument("data", metavar="DATA", help="folder or annotation file")
    task = "measure this; may be repeated (all that checkpoint and labels allow)"
    parser.add_argument("--task", action="append", choices=TASKS_OF, default=[], help=task)
    trained_for = "what the checkpoint was trained for, where it does not say (what the labels are made for)"
    parser.add_argument("--trained-for", choices=TASKS_OF, help=trained_for)
    parser.add_argument("--split", metavar="NAME", help="split (the one called val, valid, validation or dev)")
    add_data_arguments(parser)
    parser.add_argument("--on-broken-image", choices=("raise", "skip"), default="raise", help="(%(default)s)")
    parser.add_argument("--shortest-edge", type=_count, metavar="N", help="resize images to this (the checkpoint's)")
    parser.add_argument("--longest-edge", type=_count, metavar="N", help="but to no more than this")
    threshold = "class probability that makes a query a panoptic segment (the checkpoint's)"
    parser.add_argument("--panoptic-threshold", type=float, metavar="X", help=threshold)
    parser.add_argument("--max-detections", type=_count, default=MAX_INSTANCES, metavar="N", help="per image (100)")
    parser.add_argument("--boundary", action="store_true", help="boundary AP too")
    parser.add_argument("--flip", action="store_true", help="semantic: average with the mirrored image")
    scales = "semantic: average over these sizes of the image, such as 0.5,0.75,1,1.25,1.5,1.75"
    parser.add_argument("--scales", type=_scales, default=(1.0,), metavar="X,...", help=scales)
    parser.add_argument("--batch-size", type=_count, default=1, metavar="N", help="images at a time (1)")
    parser.add_argument("--workers", type=_workers, default=2, metavar="N", help="processes that read images (2)")
    parser.add_argument("--cpu", action="store_true", help="compute on the CPU even if there is a GPU")
    precision = "type of the matrix products (no); fp16 needs a GPU"
    parser.add_argument("--mixed-precision", choices=("no", "bf16", "fp16"), help=precision)
    output = "write predictions, numbers and settings into this folder"
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=output)
    parser.add_argument("--overwrite", action="store_true", help="remove the results of an earlier evaluation there")
    parser.add_argument("--json", action="store_true", help="print json instead of tables")


def run(args: argparse.Namespace) -> int:
    logging.disable_progress_bar()
    accelerator = _accelerator(args)
    say = printer(accelerator.is_main_process)
    dataset = open_validation_data(args)
    say(f"{args.data}: {dataset.format}, {len(dataset)} images of split {dataset.split!r}, {dataset_classes(dataset)}")
    checkpoint = load_checkpoint(args.checkpoint, dataset, args.trained_for, say, **_processor_fields(args))
    tasks, views = choose_tasks(checkpoint, dataset, args.task), _views(args)
    if views != ONE_VIEW and tasks != ["semantic"]:
        raise ValueError(
            f"--flip and --scales average semantic scores, and {', '.join(tasks)} would be measured; give --task "
            "semantic alone"
        )
    folder = _begin_output(args, accelerator)
    result = validate(
        checkpoint,
        dataset,
        tasks,
        accelerator,
        max_detections=args.max_detections,
        boundary=args.boundary,
        output=args.output,
        views=views,
        batch_size=args.batch_size,
        workers=args.workers,
        skip_broken=args.on_broken_image == "skip",
        progress=accelerator.is_main_process and sys.stderr.isatty(),
    )
    if accelerator.is_main_process:
        record = _record(args, checkpoint, dataset, result)
        print(json.dumps(without_nan(record), indent=1) if args.json else "\n".join(result_lines(result, args)))
        if folder:
            _finish_output(folder, result, record, dataset)
            say(f"predictions and numbers: {folder.path}")
    accelerator.end_training()  # leaves the group of processes
    return 0


def open_validation_data(args: argparse.Namespace) -> Any:
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
    splits = list_splits(args.data, args.format)
    split = args.split or next((name for name in splits if split_of_name(name) == "val"), None)
    if split is None and not Path(args.data).is_file():
        raise ValueError(
            f"{args.data} has the splits {', '.join(splits)}, none of which is for validation; give --split"
        )
    try:
        return open_dataset(args.data, split or splits[0], args.format, args.image_folder, **options)
    except TypeError as error:
        if not options:
            raise
        raise ValueError(f"--data-options {', '.join(options)} do not fit the format: {error}") from error


def result_lines(result: Validation, args: argparse.Namespace) -> Iterator[str]:
    """The numbers as text."""
    speed = result.images / max(result.seconds, 1e-9)
    yield f"{args.checkpoint}: {result.images} images in {result.seconds:.1f} s ({speed:.2f} a second)"
    for task, numbers in result.results.items():
        limit = f", at most {args.max_detections} detections of an image" if task == "instance" else ""
        yield f"\n{task}{limit}"
        names = list(numbers)
        for start in range(0, len(names), _COLUMNS):
            row = names[start : start + _COLUMNS]
            widths = [max(8, len(name) + 2) for name in row]
            yield "".join(f"{name:>{width}}" for name, width in zip(row, widths, strict=True))
            yield "".join(f"{_number(numbers[name]):>{width}}" for name, width in zip(row, widths, strict=True))


def _accelerator(args: argparse.Namespace) -> Accelerator:
    accelerator = Accelerator(mixed_precision=args.mixed_precision, cpu=args.cpu)
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":  # Accelerate would use float32
        raise ValueError("--mixed-precision fp16 needs a GPU; on a CPU use bf16 or no")
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


def _finish_output(folder: ResultFolder, result: Validation, record: Mapping[str, Any], dataset: Any):
    for task, rows in result.per_class.items():
        folder.write_table(task, rows, _CLASS_COLUMN[task])
    names = [dataset.name_of(index) for index in range(len(dataset))]
    # What the numbers in instances.json stand for, where the dataset has none of its own.
    numbered = {} if hasattr(dataset, "category_ids") else {"image_ids": dict(enumerate(names))}
    numbers = dict(zip(dataset_numbers(dataset), dataset.id2label.values(), strict=True))
    folder.finish({**record, "category_ids": numbers, **numbered})


def _record(args: argparse.Namespace, checkpoint: Checkpoint, dataset: Any, result: Validation) -> dict[str, Any]:
    processor = checkpoint.processor
    settings = {name: value for name, value in vars(args).items() if name not in ("run", "prog", "debug", "json")}
    return {
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()},
        "dataset": {"format": dataset.format, "split": dataset.split, "images": len(dataset)},
        "trained_for": checkpoint.trained_for,
        "processor": {"size": dict(processor.size), "panoptic_threshold": processor.panoptic_threshold},
        "versions": _versions(),
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
    fields = {"size": size or None, "panoptic_threshold": args.panoptic_threshold}
    return {name: value for name, value in fields.items() if value is not None}


def _views(args: argparse.Namespace) -> tuple[View, ...]:
    flips = (False, True) if args.flip else (False,)
    return tuple(View(scale, flipped) for scale in args.scales for flipped in flips)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _count(text: str) -> int:
    """An argument's value that is a positive number."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _workers(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _scales(text: str) -> tuple[float, ...]:
    """Different positive numbers between commas."""
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 < scale <= 16 for scale in scales) or len(set(scales)) < len(scales):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different numbers above 0, such as 0.5,1,1.5")
    return scales
