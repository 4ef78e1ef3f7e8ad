"""Adds the LoRA adapters of a model to its weights. The new folder holds the same model, which gives the same results,
and needs PEFT no more."""

import argparse
import shutil
from pathlib import Path

from transformers.utils import logging

from m2f.checkpoints.bundled_checkpoint import checkpoint_location
from m2f.checkpoints.checkpoint_config import read_config
from m2f.commands.messages import print_lines
from m2f.commands.output_check import check_folder
from m2f.commands.shared_arguments import add_shared_arguments
from m2f.hub.checkpoint_conversion import written_whole
from m2f.inference.model_loading import load_model
from m2f.modeling_m2f.adapters import require_peft

# What a folder of `m2f train` says about its model; the card, which has the weights' size, is written anew by a push.
_KEPT = ("results.json", "training_options.yaml")


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("source", metavar="CHECKPOINT", help="with adapters: folder or Hub id")
    parser.add_argument("target", metavar="TARGET", type=Path, help="new folder")
    add_shared_arguments(parser, config={}, dry_run={})


def run(args: argparse.Namespace) -> int:
    logging.disable_progress_bar()
    location, target = checkpoint_location(args.source), args.target
    if read_config(location).get("backbone_lora") is None:
        raise ValueError(f"{args.source} has no LoRA adapters; there is nothing to merge")
    require_peft()
    check_folder(target.parent)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is not an empty folder; choose another target")
    if args.dry_run:
        print_lines([f"would merge the adapters of {args.source} and write the model into {target}"])
        return 0
    model, processor = load_model(location)
    model.merge_backbone_adapters()

    def write(folder: Path):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        for name in _KEPT:
            if (Path(location) / name).is_file():
                shutil.copyfile(Path(location) / name, folder / name)

    written_whole(target, write)
    print_lines([f"model without adapters: {target}"])
    return 0
