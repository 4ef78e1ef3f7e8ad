"""Patches of the images of a dataset, as a dataset of their own: what the checkpoint `nuclei` is trained on."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m2f.data.dataset_formats import open_dataset
from m2f.data.sample_geometry import ResizedView, Window
from m2f.data.segment_map import Sample
from m2f.evaluation.mask_rle import encode_masks
from m2f.inference.tile_grid import tile_boxes

PATCH, OVERLAP = 192, 64  # pixels of an image that a training crop is taken from
# Pixels of a tile in prediction, which patches for evaluation are like. Every third of them measures well enough.
TILE, EVERY = 128, 3


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
