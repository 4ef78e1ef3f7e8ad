"""Datasets of two splits with one image each, in every format."""

import json
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

SIZE = (3, 4)
COLOURS = np.zeros((*SIZE, 3), np.uint8)
COLOURS[:2] = (5, 0, 0)  # segment 5; the last row is void


def save(path: Path, pixels: np.ndarray | None = None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(COLOURS if pixels is None else pixels).save(path)


def coco(annotations: list[dict], categories: list[dict] | None = None) -> str:
    images = [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}]
    categories = categories or [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


# The same object in each format: class "dog", the first two rows.
RLE = {"size": list(SIZE), "counts": [0, 2, 1, 2, 1, 2, 1, 2, 1]}
INSTANCE = {"id": 1, "image_id": 1, "category_id": 7, "segmentation": RLE}
PANOPTIC = {"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 5, "category_id": 7, "iscrowd": 0}]}
LABELS = np.repeat([[1], [1], [255]], 4, 1).astype(np.uint8)


def make_coco_instance(root: Path):
    for split in ("train", "val"):
        (root / f"instances_{split}.json").write_text(coco([INSTANCE]))
        save(root / split / "a.png")


def make_coco_panoptic(root: Path):
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / "annotations" / f"panoptic_{split}2017.json").write_text(coco([PANOPTIC]))
        save(root / "annotations" / f"panoptic_{split}2017" / "a.png")
        save(root / f"{split}2017" / "a.png")


def make_roboflow(root: Path):
    categories = [
        {"id": i, "name": n, "supercategory": s} for i, n, s in ((0, "p", "none"), (3, "cat", "p"), (7, "dog", "p"))
    ]
    for split in ("train", "valid"):
        save(root / split / "a.png")
        (root / split / "_annotations.coco.json").write_text(coco([INSTANCE], categories))


def make_semantic_folder(root: Path):
    for split in ("train", "val"):
        save(root / "images" / split / "a.png")
        save(root / "annotations" / split / "a.png", LABELS)
    (root / "id2label.json").write_text(json.dumps({"0": "cat", "1": "dog"}))


def make_cityscapes(root: Path):
    for split in ("train", "val"):
        save(root / "leftImg8bit" / split / "ulm" / "a_leftImg8bit.png")
        ids = np.where(LABELS == 1, 24001, 0).astype(np.uint16)  # a person, and unlabeled
        save(root / "gtFine" / split / "ulm" / "a_gtFine_instanceIds.png", ids)


def make_yolo(root: Path):
    for split in ("train", "val"):
        save(root / "images" / split / "a.png")
        (root / "labels" / split).mkdir(parents=True)
        (root / "labels" / split / "a.txt").write_text(f"1 0 0 1 0 1 {2 / 3} 0 {2 / 3}")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")


def make_rows(root: Path):
    entry = {"image": Image.fromarray(COLOURS), "objects": [{"category": 1, "segmentation": RLE}]}
    datasets.Dataset.from_list([entry]).to_parquet(root / "train-00000-of-00001.parquet")
    datasets.Dataset.from_list([entry]).to_parquet(root / "val-00000-of-00001.parquet")


MAKERS = {
    "coco-instance": make_coco_instance,
    "coco-panoptic": make_coco_panoptic,
    "roboflow-coco": make_roboflow,
    "semantic-folder": make_semantic_folder,
    "cityscapes": make_cityscapes,
    "yolo-segmentation": make_yolo,
    "datasets": make_rows,
}
