"""Converts a checkpoint: the original's (detectron2) and transformers' mask2former into one of m2f, and one of m2f
into one that stock transformers loads. Runs no code from any file, and writes safetensors."""

import argparse
from pathlib import Path

from transformers.utils import logging

from m2f.checkpoints.bundled_checkpoint import checkpoint_location
from m2f.commands.messages import printer
from m2f.commands.output_check import check_folder
from m2f.commands.shared_arguments import add_shared_arguments
from m2f.configuration.configuration_m2f import TASKS
from m2f.hub.checkpoint_conversion import LIBRARIES, convert_checkpoint
from m2f.hub.dataset_settings import NO_DATASET
from m2f.image_processing.resolution_presets import RESOLUTION_PRESETS


def add_arguments(parser: argparse.ArgumentParser):
    source = "file of the original (.pkl, .pth), or folder or Hub id of transformers' mask2former or of m2f"
    parser.add_argument("source", metavar="SOURCE", help=source)
    parser.add_argument("target", metavar="TARGET", type=Path, help="new folder")
    parser.add_argument("--to", choices=LIBRARIES, help="(transformers for a checkpoint of m2f, else m2f)")
    dataset = "what it was trained on: decides class names, things and resolution (found out by the classes)"
    parser.add_argument("--dataset", choices=(*RESOLUTION_PRESETS, NO_DATASET), help=dataset)
    parser.add_argument("--task", choices=TASKS, help="what it was trained for, where nothing says so")
    own = (
        "the weights do not come from the authors' published ones, whose licence (CC BY-NC 4.0) is recorded otherwise"
    )
    parser.add_argument("--own-weights", action="store_true", help=own)
    add_shared_arguments(parser, config={}, dry_run={"help": "read and convert, and write nothing"})


def run(args: argparse.Namespace) -> int:
    logging.disable_progress_bar()
    check_folder(args.target.parent)
    options = {"dataset": args.dataset, "task": args.task, "own_weights": args.own_weights}
    source = checkpoint_location(args.source)
    convert_checkpoint(source, args.target, args.to, **options, dry_run=args.dry_run, say=printer(is_main=True))
    return 0
