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


def make_instance_maps(root: Path):
    """One object, whose id is 300."""
    for split in ("train", "val"):
        save(root / "images" / split / "a.png")
        save(root / "masks" / split / "a.png", np.where(LABELS == 1, 300, 0).astype(np.uint16))


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


OUTLINE = [[0, 0], [4, 0], [4, 2], [0, 2]]
DOG, VOID = (128, 0, 0), (9, 9, 9)


def write_names(root: Path):
    (root / "id2label.json").write_text(json.dumps({"0": "cat", "1": "dog"}))


def colours_of(labels: np.ndarray) -> np.ndarray:
    return np.where((labels == 1)[..., None], DOG, VOID).astype(np.uint8)


def make_colour_masks(root: Path):
    for split in ("train", "val"):
        save(root / split / "images" / "a.png")
        save(root / split / "masks" / "a.png", colours_of(LABELS))
    table = "# label:color_rgb:parts:actions\ncat:0,128,0::\ndog:128,0,0::\nvoid:9,9,9::\n"
    (root / "labelmap.txt").write_text(table)


def make_voc(root: Path):
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split in ("train", "val"):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("a\n")
    save(root / "JPEGImages" / "a.png")
    save(root / "SegmentationClass" / "a.png", LABELS)
    (root / "class_names.txt").write_text("cat\ndog\n")


def make_labelme(root: Path):
    for split in ("train", "val"):
        save(root / split / "a.png")
        shape = {"label": "dog", "points": OUTLINE, "group_id": None, "shape_type": "polygon", "flags": {}}
        size = {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        content = {"version": "5.5.0", "flags": {}, "shapes": [shape], "imagePath": "a.png", "imageData": None, **size}
        (root / split / "a.json").write_text(json.dumps(content))
    write_names(root)


def make_via(root: Path):
    for split in ("train", "val"):
        save(root / split / "a.png")
        x, y = zip(*OUTLINE, strict=True)
        outline = {"name": "polygon", "all_points_x": x, "all_points_y": y}
        region = {"shape_attributes": outline, "region_attributes": {"kind": "dog"}}
        content = {"a.png77": {"filename": "a.png", "size": 77, "regions": [region], "file_attributes": {}}}
        (root / split / "via_region_data.json").write_text(json.dumps(content))
    write_names(root)


def make_label_studio(root: Path):
    for split in ("train", "val"):
        save(root / split / "a.png")
        value = {"points": [[x * 25, y * 100 / 3] for x, y in OUTLINE], "polygonlabels": ["dog"]}
        result = {"id": "x1", "type": "polygonlabels", "value": value, "original_width": 4, "original_height": 3}
        task = {"id": 5, "data": {"image": "/data/upload/1/0123abcd-a.png"}, "annotations": [{"result": [result]}]}
        (root / split / "tasks.json").write_text(json.dumps([task]))
    write_names(root)


def make_labelbox(root: Path):
    for split in ("train", "val"):
        save(root / split / "a.png")
        shape = {"name": "dog", "annotation_kind": "ImagePolygon", "polygon": [{"x": x, "y": y} for x, y in OUTLINE]}
        label = {"annotations": {"objects": [shape], "classifications": []}}
        size = {"height": SIZE[0], "width": SIZE[1]}
        row = {"data_row": {"external_id": "a.png"}, "media_attributes": size, "projects": {"p": {"labels": [label]}}}
        (root / split / "export.ndjson").write_text(json.dumps(row) + "\n")
    write_names(root)


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><labels><label><name>cat</name></label><label><name>dog</name></label></labels></task></meta>
<image id="0" name="a.png" width="4" height="3">
<polygon label="dog" source="manual" occluded="0" points="0.00,0.00;4.00,0.00;4.00,2.00;0.00,2.00" z_order="0">
</polygon></image></annotations>
"""


def make_cvat(root: Path):
    for split in ("train", "val"):
        save(root / split / "a.png")
        (root / split / "annotations.xml").write_text(CVAT)


def make_kaggle(root: Path):
    for split in ("train", "val"):
        save(root / split / "a.png")
        (root / f"{split}.csv").write_text("ImageId,EncodedPixels,ClassId\na.png,1 2 4 2 7 2 10 2,dog\n")
    write_names(root)


def make_object_masks(root: Path):
    for split in ("train", "val"):
        save(root / split / "pictures" / "a.png")
        save(root / split / "annotations" / "a_dog_0.png", (LABELS == 1).astype(np.uint8) * 255)
    write_names(root)


MAKERS = {
    "coco-instance": make_coco_instance,
    "coco-panoptic": make_coco_panoptic,
    "roboflow-coco": make_roboflow,
    "semantic-folder": make_semantic_folder,
    "instance-maps": make_instance_maps,
    "cityscapes": make_cityscapes,
    "yolo-segmentation": make_yolo,
    "datasets": make_rows,
    "colour-masks": make_colour_masks,
    "voc": make_voc,
    "labelme": make_labelme,
    "via": make_via,
    "label-studio": make_label_studio,
    "labelbox": make_labelbox,
    "cvat": make_cvat,
    "kaggle-rle": make_kaggle,
    "object-masks": make_object_masks,
}
