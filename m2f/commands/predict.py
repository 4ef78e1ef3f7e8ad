"""Segments images, and writes for each an overlay and a label map, and for all a COCO json, a table of the segments
and a report that opens in a browser. Started again with the same arguments, it goes on where it was stopped.

Several processes, on machines that all see the folders, share the images with:
`accelerate launch [...] -m m2f predict [...]`."""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import PartialState
from PIL import Image
from tqdm import tqdm
from transformers.utils import logging

from m2f.checkpoints.bundled_checkpoint import DEFAULT_CHECKPOINT, checkpoint_location
from m2f.commands.messages import print_lines, printer
from m2f.commands.output_check import check_folder
from m2f.commands.shared_arguments import AUTO_BATCH, add_shared_arguments, count
from m2f.commands.tile_arguments import add_tile_arguments
from m2f.commands.white_level_argument import add_white_level_argument
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.image_download import LONGEST_SECONDS
from m2f.image_processing.image_processing_m2f import TASKS
from m2f.inference.image_sources import find_images
from m2f.inference.model_loading import DTYPES, find_device
from m2f.inference.prediction_folder import REPORT, Entry, PredictionFolder
from m2f.inference.prediction_summary import Summary, write_ranking, write_summary
from m2f.inference.saved_formats import check_formats, save_formats
from m2f.inference.segmenter import Segmenter
from m2f.output.folder_lock import locked_folder
from m2f.output.safe_text import terminal_text
from m2f.output_formats.format_list import FORMATS
from m2f.output_formats.mask_outlines import DEFAULT_TOLERANCE, check_tolerance

EXIT_IMAGES_FAILED = 1
EXIT_CODES = {0: "all images have a result", EXIT_IMAGES_FAILED: "some have none, and those of the others are written"}
# A process that is done waits for the others, however long their images take.
_LONGEST_WAIT = timedelta(days=30)
_SHOWN_CLASSES = 8


def add_arguments(parser: argparse.ArgumentParser):
    inputs = 'file, folder, pattern ("scans/**/*.png"), URL, or - for a list on standard input, one a line'
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help=inputs)
    checkpoint = f"of m2f or transformers' mask2former: folder, Hub id or bundled name ({DEFAULT_CHECKPOINT}, bundled)"
    parser.add_argument("--checkpoint", metavar="CHECKPOINT", help=checkpoint)
    parser.add_argument("--task", choices=TASKS, help="what to predict (what the checkpoint was trained for)")
    threshold = "lowest score of an instance (0.5), or class probability of a panoptic segment (the checkpoint's)"
    parser.add_argument("--threshold", type=float, metavar="X", help=threshold)
    mask_threshold = "mask probability from which a pixel belongs to a segment (0.5)"
    parser.add_argument("--mask-threshold", type=float, metavar="X", help=mask_threshold)
    most = "(query, class) pairs that are considered for the instances of an image (as many as queries)"
    parser.add_argument("--max-detections", type=count, metavar="N", help=most)
    parser.add_argument("--shortest-edge", type=count, metavar="N", help="resize images to this (the checkpoint's)")
    parser.add_argument("--longest-edge", type=count, metavar="N", help="but to no more than this")
    add_tile_arguments(parser)
    add_white_level_argument(parser)
    bands = "of images that are not RGB: channels that pictures show, from 1, as 4,3,2 or one of them (1,2,3, or 1)"
    parser.add_argument("--bands", type=_bands, metavar="N,...", help=bands)
    pixels = "refuse images with more, as they may be made to fill the memory (Pillow's 179 million)"
    parser.add_argument("--max-pixels", type=count, metavar="N", help=pixels)
    urls = f"download inputs that are http or https URLs, each in at most {LONGEST_SECONDS // 60} minutes"
    parser.add_argument("--allow-urls", action="store_true", help=urls)
    add_saving_arguments(parser)
    add_shared_arguments(
        parser,
        config={},
        device={},
        cpu={},
        dtype={"choices": DTYPES, "default": "float32", "help": "of weights and computation (%(default)s)"},
        batch_size=AUTO_BATCH,
        workers={"type": count, "default": 2, "help": "threads that read, and that write (2)"},
        output={"default": Path("m2f_predictions"), "help": "where results are written (%(default)s)"},
        overwrite={},
        dry_run={},
    )


def add_saving_arguments(parser: argparse.ArgumentParser):
    save = f"write FORMAT into a folder of its name too; may be repeated: {', '.join(FORMATS)}"
    parser.add_argument("--save", action="append", choices=FORMATS, default=[], metavar="FORMAT", help=save)
    tolerance = f"pixels that corners of polygons may be away from the line without them ({DEFAULT_TOLERANCE})"
    parser.add_argument("--tolerance", type=float, default=DEFAULT_TOLERANCE, metavar="X", help=tolerance)
    rank = "write ranking.csv: images by the mean of 1 - score of their segments, highest first"
    parser.add_argument("--rank", choices=("uncertainty",), help=rank)


def run(args: argparse.Namespace) -> int:
    logging.disable_progress_bar()  # transformers shows one for the weights
    _limit_pixels(args.max_pixels)
    check_tolerance(args.tolerance)
    sources = find_images(args.inputs, sys.stdin, args.allow_urls, args.output)
    folder = PredictionFolder(args.output, result_settings(args))
    entries = folder.entries(sources)
    device = find_device(args.device)  # wrong arguments before any process waits for another
    check_folder(args.output)
    if args.dry_run:
        print_lines(dry_run_lines(args, folder, entries))
        return 0
    state = PartialState(cpu=device.type == "cpu", timeout=_LONGEST_WAIT)
    # Processes get a GPU each, unless the user names a device for all.
    segmenter = load_segmenter(args, device if args.device not in (None, "cuda") else state.device)
    with locked_folder(args.output) if state.is_main_process else nullcontext():
        code = _predict(args, state, segmenter, folder, entries)
    state.destroy_process_group()
    return code


def _predict(
    args: argparse.Namespace, state: PartialState, segmenter: Segmenter, folder: PredictionFolder, entries: list[Entry]
) -> int:
    if state.is_main_process:
        folder.begin(args.overwrite)
        check_formats(folder, args.save)
    state.wait_for_everyone()
    todo = [entry for entry in entries if not folder.is_done(entry)]
    state.wait_for_everyone()  # all have looked before any writes, so that all divide the same list
    if len(todo) < len(entries):
        say = printer(state.is_main_process)
        say(f"{len(entries) - len(todo)} of {len(entries)} images have their result already")
    started = time.monotonic()
    predict_images(segmenter, folder, todo[state.process_index :: state.num_processes], state.is_main_process)
    state.wait_for_everyone()
    code = 0
    if state.is_main_process:
        is_usual = segmenter.num_channels == USUAL_CHANNELS and args.bands is None
        remarks = {} if is_usual else {"bands": shown(segmenter)}
        summary = write_summary(folder, entries, segmenter.id2label, segmenter.things, remarks)
        seconds = time.monotonic() - started
        if args.rank:
            write_ranking(folder, summary)
        saved = save_formats(folder, entries, args.save, segmenter.id2label, segmenter.things, args.tolerance)
        print_lines([*saved, *summary_lines(summary, folder, len(todo), seconds)])
        code = EXIT_IMAGES_FAILED if summary.failed else 0
    return code


def load_segmenter(args: argparse.Namespace, device: Any) -> Segmenter:
    edges = {"shortest_edge": args.shortest_edge, "longest_edge": args.longest_edge}
    size = {name: value for name, value in edges.items() if value is not None}
    return Segmenter.from_pretrained(
        args.checkpoint,
        args.task,
        device,
        args.dtype,
        size=size or None,
        threshold=args.threshold,
        mask_threshold=args.mask_threshold,
        max_detections=args.max_detections,
        tile=args.tile,
        tile_overlap=args.tile_overlap,
        white_level=args.white_level,
        bands=args.bands,
        batch_size=args.batch_size,
        workers=args.workers,
    )


def result_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments that results depend on, and the state of a checkpoint that is a folder, which may be written anew
    between two runs."""
    names = ("task", "threshold", "mask_threshold", "max_detections", "shortest_edge", "longest_edge")
    settings = {
        name: getattr(args, name) for name in (*names, "tile", "tile_overlap", "white_level", "bands", "dtype")
    }
    location = checkpoint_location(args.checkpoint)
    files = sorted(Path(location).glob("*.*")) if os.path.isdir(location) else []
    weights = [file for file in files if file.suffix in (".json", ".safetensors", ".bin")]
    written = max((file.stat().st_mtime_ns for file in weights), default=None)
    return {"checkpoint": args.checkpoint or DEFAULT_CHECKPOINT, **settings, "checkpoint_written": written}


def predict_images(segmenter: Segmenter, folder: PredictionFolder, entries: Sequence[Entry], show_progress: bool):
    """Segments images and writes their files; says which have no result.

    Raises:
        OSError: the folder cannot be written to any more.
    """
    pipeline = segmenter.pipeline(
        lambda entry: (segmenter.read(entry.source.location), entry.source.name), folder.write
    )
    bar = tqdm(total=len(entries), unit=" images", disable=not (show_progress and sys.stderr.isatty()))
    with bar:
        for outcome in pipeline.run(entries):
            if outcome.error is not None:
                message = str(outcome.error)
                folder.write_failure(outcome.item, message)
                line = _failure_line(outcome.item.source.shown, message)
                tqdm.write(terminal_text(line), file=sys.stderr)
            bar.update()


def shown(segmenter: Segmenter) -> str:
    """Which channels pictures show."""
    return f"{', '.join(str(band + 1) for band in segmenter.bands)} of {segmenter.num_channels}"


def dry_run_lines(args: argparse.Namespace, folder: PredictionFolder, entries: Sequence[Entry]) -> list[str]:
    """What would be done."""
    todo = [entry for entry in entries if args.overwrite or not folder.is_done(entry)]
    lines = [f"would segment {entry.source.shown} -> {entry.name}" for entry in todo]
    return [*lines, f"{len(todo)} of {len(entries)} images; results would be written into {args.output}"]


def summary_lines(summary: Summary, folder: PredictionFolder, done: int, seconds: float) -> list[str]:
    """The result as text; failures again, as their lines may have scrolled away."""
    speed = f" ({done / seconds:.2f} a second)" if done else ""
    classes = [f"{row.label} {row.objects}" for row in summary.classes]
    found = ", ".join(classes[:_SHOWN_CLASSES]) + (", ..." if len(classes) > _SHOWN_CLASSES else "")
    lines = [f"{len(summary.images)} images{speed}, {summary.object_count} segments" + (f": {found}" if found else "")]
    if summary.failed:
        lines.append(f"{len(summary.failed)} images have no result; the same command tries them again")
    return [*lines, f"report: {folder.path / REPORT}"]


def _bands(text: str) -> tuple[int, ...]:
    """One or three numbers between commas, from 1."""
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(part.isdecimal() and 0 < int(part) < 10**6 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not one number of a channel from 1, nor three such as 3,2,1")
    return tuple(map(int, parts))


def _failure_line(location: str, message: str) -> str:
    message = " ".join(message.split())
    return f"skipped: {message}" if location in message else f"skipped: {location}: {message}"


def _limit_pixels(limit: int | None):
    """Images with more are refused: Pillow does so with more than twice its limit, and warns from that on."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    if limit is not None:
        Image.MAX_IMAGE_PIXELS = -(-limit // 2)
