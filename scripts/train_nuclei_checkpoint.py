"""Trains the bundled checkpoint `nuclei` and packages it: patches of the images, random weights, `m2f train`, export,
measurement on whole images, model card.

    python scripts/train_nuclei_checkpoint.py DATA FOLDER

DATA has images of nuclei in COCO instance format, splits train and val. The options of the training are those of
train_nuclei_checkpoint.yaml beside this file; others of `m2f train` may follow FOLDER. The same command goes on where
it was stopped. FOLDER gets:

patches/      what `m2f train` reads
start/        the random weights that it starts from
run/          its output: losses, evaluations on the patches, checkpoints
nuclei/       the packaged checkpoint: float16 safetensors, image processor, options, model card with its pictures
measured/     what `m2f val` gives for it, see card_nuclei_checkpoint.py

The package is complete; m2f/checkpoints/nuclei is a copy of the folder nuclei.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from card_nuclei_checkpoint import measure, write_nuclei_card
from demo_model import random_model, small_config
from nuclei_card_text import OPTIONS_FILE
from nuclei_patches import TILE, prepare_patches
from transformers.utils import logging

from m2f.cli import main as m2f
from m2f.configuration.configuration_m2f import M2FConfig
from m2f.data.dataset_formats import open_dataset
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.option_values import read_options, write_options
from m2f.training.training_options import TrainingOptions
from m2f.validation.label_check import label_fields

OPTIONS = Path(__file__).resolve().with_suffix(".yaml")
TILE_OVERLAP = 64  # pixels; a nucleus that is no longer is whole in one tile
LARGEST_BYTES = 16_000_000
CROP = 192  # of the options
MEAN, DEVIATION = 0.22, 0.32  # of the training patches


def parse_args(words: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The arguments, and the options for `m2f train`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    return parser.parse_known_args(words)


def build_config(dataset: Any) -> M2FConfig:
    """The demo's model with more queries and two more layers."""
    return small_config(CROP, encoder_layers=2, decoder_layers=6, num_queries=100, **label_fields(dataset))


def prepare_start(patch_folder: Path, folder: Path):
    """Random weights, and the image processor."""
    if (folder / "preprocessor_config.json").is_file():
        return
    torch.manual_seed(0)
    model = random_model(build_config(open_dataset(patch_folder, "train")))
    model.save_pretrained(folder)
    statistics = {"image_mean": [MEAN] * 3, "image_std": [DEVIATION] * 3}
    M2FImageProcessor(task=model.config.task, **statistics).save_pretrained(folder)
    print(f"{model.num_parameters():,} parameters", flush=True)


def export(run: Path, folder: Path):
    """The best model of a run in float16, with its processor, its curves and the options that it was trained with.

    Raises:
        ValueError: it is larger than a package may hold.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier call
    model = M2FForUniversalSegmentation.from_pretrained(run)
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # for whoever installs it
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "float32"  # to compute with: few CPUs are fast in float16
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    # Predictions see an image as training does: in pieces of one scale, on a canvas of one size.
    pieces = {"tile": TILE, "tile_overlap": TILE_OVERLAP, "pad_size": {"height": CROP, "width": CROP}}
    M2FImageProcessor.from_pretrained(run, **pieces).save_pretrained(folder)
    options = read_options(run / OPTIONS_FILE)
    # The names of the folders alone, as they differ from machine to machine.
    paths = {name: Path(options[name]).name for name in ("data", "model", "output")}
    write_options(TrainingOptions(**{**options, **paths}), folder / OPTIONS_FILE)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if size > LARGEST_BYTES:
        raise ValueError(f"{folder} has {size:,} bytes of weights, and a package may hold {LARGEST_BYTES:,}")
    print(f"{folder}: {size:,} bytes of weights")


def main(args: argparse.Namespace, options: list[str]) -> int:
    logging.disable_progress_bar()
    prepare_patches(args.data, args.folder / "patches")
    prepare_start(args.folder / "patches", args.folder / "start")
    paths = {"--config": OPTIONS, "--data": "patches", "--model": "start", "--output": "run"}
    words = [word for name, path in paths.items() for word in (name, str(args.folder / path))]
    code = m2f(["train", *words, *options])
    if code == 0:
        export(args.folder / "run", args.folder / "nuclei")
        measure(args.data, args.folder)
        write_nuclei_card(args.data, args.folder)
    return code


if __name__ == "__main__":
    sys.exit(main(*parse_args()))
