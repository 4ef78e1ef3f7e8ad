"""Trains the bundled checkpoint `nuclei` and packages it: patches of the images, random weights, `m2f train`, export.

    python scripts/train_nuclei_checkpoint.py DATA FOLDER

DATA has images of nuclei in COCO instance format, splits train and val. The options of the training are those of
train_nuclei_checkpoint.yaml beside this file; others of `m2f train` may follow FOLDER. The same command goes on where
it was stopped. FOLDER gets:

patches/      what `m2f train` reads
start/        the random weights that it starts from
run/          its output: losses, evaluations on the patches, checkpoints
nuclei/       the packaged checkpoint: float16 safetensors, image processor, model card
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from demo_model import sine_embeddings
from transformers.utils import logging

from m2f.cli import main as m2f
from m2f.configuration.configuration_m2f import M2FConfig
from m2f.data.dataset_formats import open_dataset
from m2f.data.sample_geometry import ResizedView, Window
from m2f.data.segment_map import Sample
from m2f.evaluation.mask_rle import encode_masks
from m2f.hub.model_card import CardFacts, write_card
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.inference.tile_grid import tile_boxes
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.label_check import label_fields

OPTIONS = Path(__file__).resolve().with_suffix(".yaml")
PATCH, OVERLAP = 192, 64  # pixels of an image that a training crop is taken from
# Pixels of a tile in prediction, which patches for evaluation are like. Every third of them measures well enough.
TILE, EVERY = 128, 3
LARGEST_BYTES = 16_000_000
CROP = 192  # of the options
MEAN, DEVIATION = 0.22, 0.32  # of the training patches
LICENSE, DATASET = "apache-2.0", "BBBC038 (2018 Data Science Bowl, stage 1)"


def parse_args(words: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The arguments, and the options for `m2f train`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    return parser.parse_known_args(words)


def windows(split: str, size: tuple[int, int]) -> Iterator[Window]:
    """The patches of an image of `size` (height, width)."""
    edge, overlap = (PATCH, OVERLAP) if split == "train" else (TILE, 0)
    for box in tile_boxes(size, edge, overlap):
        yield Window(box.top, box.left, box.height, box.width)


def patches(dataset: Any) -> Iterator[Sample]:
    """For training all that show a nucleus; for evaluation every third, with or without one."""
    count = 0
    for index in range(len(dataset)):
        sample = dataset[index]
        for window in windows(dataset.split, sample.segments.size):
            count += 1
            if dataset.split != "train" and count % EVERY:
                continue
            patch = ResizedView(sample, sample.segments.size).cut(window)
            if dataset.split != "train" or len(patch.segments.class_ids):
                yield patch


def write_patches(dataset: Any, folder: Path) -> int:
    """PNG files and a json of COCO instances. Gives the number of patches."""
    (folder / dataset.split).mkdir(parents=True)
    images, annotations = [], []
    for number, patch in enumerate(patches(dataset), 1):
        name = f"{number:05d}.png"
        patch.image.save(folder / dataset.split / name, compress_level=1)  # read often, and kept for a while
        images.append({"id": number, "file_name": name, "width": patch.image.width, "height": patch.image.height})
        masks = patch.segments.masks()
        for label, mask, rle in zip(patch.segments.class_ids.tolist(), masks, encode_masks(masks), strict=True):
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": dataset.category_ids[label]}
            annotations.append({**entry, "segmentation": rle, "area": int(mask.sum()), "iscrowd": 0})
    names = zip(dataset.category_ids, dataset.id2label.values(), strict=True)
    categories = [{"id": number, "name": name} for number, name in names]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"instances_{dataset.split}.json").write_text(json.dumps(content))
    return len(images)


def prepare_patches(data: Path, folder: Path):
    """Both splits, all or nothing."""
    if folder.is_dir():
        return
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)  # what a stopped process left
    for split in ("train", "val"):
        print(f"{write_patches(open_dataset(data, split), unfinished)} patches of split {split}", flush=True)
    unfinished.rename(folder)


def build_config(dataset: Any) -> M2FConfig:
    """The demo's model with more queries and two more layers."""
    backbone = {
        "model_type": "swin",
        "image_size": CROP,
        "embed_dim": 32,
        "depths": [1, 1, 2, 1],
        "num_heads": [2, 4, 8, 16],
        "window_size": 6,
        "mlp_ratio": 2.0,
        "drop_path_rate": 0.0,
        "use_absolute_embeddings": True,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    return M2FConfig(
        backbone_config=backbone,
        feature_size=64,
        mask_feature_size=64,
        hidden_dim=64,
        encoder_layers=2,
        encoder_feedforward_dim=256,
        decoder_layers=6,
        dim_feedforward=256,
        num_attention_heads=4,
        num_queries=100,
        # As in the demo: the mask logits have 48 x 48 cells.
        train_num_points=1024,
        oversample_ratio=2.0,
        importance_sample_ratio=0.5,
        **label_fields(dataset),
    )


def prepare_start(patch_folder: Path, folder: Path):
    """Random weights, and the image processor."""
    if (folder / "preprocessor_config.json").is_file():
        return
    torch.manual_seed(0)
    model = M2FForUniversalSegmentation(build_config(open_dataset(patch_folder, "train")))
    # As in the demo: nothing tells nuclei apart that look alike, until a backbone has learned where it is.
    embeddings = next(p for name, p in model.named_parameters() if name.endswith("embeddings.position_embeddings"))
    embeddings.data.copy_(sine_embeddings(CROP // 4, embeddings.shape[-1]))
    model.save_pretrained(folder)
    statistics = {"image_mean": [MEAN] * 3, "image_std": [DEVIATION] * 3}
    M2FImageProcessor(task=model.config.task, **statistics).save_pretrained(folder)
    print(f"{model.num_parameters():,} parameters", flush=True)


def export(run: Path, folder: Path):
    """The best model of a run in float16, with its processor and card.

    Raises:
        ValueError: it is larger than a package may hold.
    """
    model = M2FForUniversalSegmentation.from_pretrained(run)
    model.half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "float32"  # to compute with: few CPUs are fast in float16
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    M2FImageProcessor.from_pretrained(run).save_pretrained(folder)
    shutil.copyfile(run / "training_options.yaml", folder / "training_options.yaml")
    write_card(folder, CardFacts(LICENSE, (DATASET,), "none", name="nuclei"))
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
    return code


if __name__ == "__main__":
    sys.exit(main(*parse_args()))
