"""Exports of annotation tools as each writes them, with one image of an object "dog": the first two rows."""

import json
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from small_datasets import LABELS, OUTLINE, RLE, SIZE, save

HEIGHT, WIDTH = SIZE
POLYGON = [float(value) for point in OUTLINE for value in point]
BOX = {"bbox": [0, 0, 4, 2], "area": 8}
RELEASE = "me_cells_v1"


def cvat_coco(root: Path, is_mask: bool = False):
    """As Datumaro writes it for CVAT: a mask is run lengths and a crowd, and a box has an empty segmentation."""
    shape = {"segmentation": RLE, "iscrowd": 1} if is_mask else {"segmentation": [POLYGON], "iscrowd": 0}
    image = {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0, "file_name": "a.png"}
    content = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
        "categories": [{"id": 1, "name": "dog", "supercategory": ""}],
        "images": [{"id": 1, "width": WIDTH, "height": HEIGHT, **image}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, **shape, **BOX, "attributes": {"occluded": False}},
            {"id": 2, "image_id": 1, "category_id": 1, "segmentation": [], "iscrowd": 0, **BOX},
        ],
    }
    write(root / "annotations" / "instances_default.json", content)
    save(root / "images" / "default" / "a.png")


def cvat_coco_masks(root: Path):
    cvat_coco(root, is_mask=True)


def roboflow_coco(root: Path):
    name = "a_png.rf.0c1d2e.jpg"
    category = {"id": 0, "name": "animals", "supercategory": "none"}
    entry = {"id": 0, "image_id": 0, "category_id": 1, **BOX, "segmentation": [POLYGON], "iscrowd": 0}
    image = {"id": 0, "license": 1, "file_name": name, "height": HEIGHT, "width": WIDTH, "extra": {"name": "a.png"}}
    content = {
        "info": {"year": "2024", "version": "1", "description": "Exported from roboflow.com"},
        "licenses": [{"id": 1, "url": "", "name": "MIT"}],
        "categories": [category, {"id": 1, "name": "dog", "supercategory": "animals"}],
        "images": [image],
        "annotations": [entry],
    }
    for split in ("train", "valid", "test"):
        write(root / split / "_annotations.coco.json", content)
        save(root / split / name)
    for name in ("README.dataset.txt", "README.roboflow.txt"):
        (root / name).write_text("animals > 2024\n")


def roboflow_yolo(root: Path):
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 1\nnames: ['dog']\n\n"
    text += (
        "roboflow:\n  workspace: me\n  project: animals\n  version: 1\n  license: MIT\n  url: https://universe/me\n"
    )
    (root / "data.yaml").write_text(text)
    for split in ("train", "valid", "test"):
        save(root / split / "images" / "a_png.rf.0c1d2e.jpg")
        write_yolo(root / split / "labels" / "a_png.rf.0c1d2e.txt", close=True)
    (root / "README.roboflow.txt").write_text("animals\n")


def ultralytics(root: Path):
    text = "# comment\npath: coco8-seg # dataset root dir\ntrain: images/train # relative to path\nval: images/val\n"
    (root / "coco8-seg.yaml").write_text(text + "test: # optional\n\nnames:\n  0: dog\n\ndownload: https://x/y.zip\n")
    for split in ("train", "val"):
        save(root / "images" / split / "a.jpg")
        write_yolo(root / "labels" / split / "a.txt", close=False)


def segments_instance(root: Path):
    counts = coco_mask.encode(np.asfortranarray(LABELS == 1, np.uint8))["counts"].decode()
    shape = {"segmentation": {"size": list(SIZE), "counts": counts}, "iscrowd": 0}
    content = segments_content({"id": 1, "image_id": 1, "category_id": 2, **BOX, **shape})
    segments_folder(root)
    write(root / f"export_coco-instance_{RELEASE}.json", content)


def segments_vector(root: Path):
    """Polygons have no segmentation there; a box stands beside them."""
    polygon = {"id": 1, "image_id": 1, "category_id": 2, "points": OUTLINE}
    content = segments_content(polygon, {"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 4, 2]})
    segments_folder(root)
    write(root / f"export_coco-instance_{RELEASE}.json", content)


def segments_panoptic(root: Path):
    info = {"id": 7, "category_id": 2, "bbox": [0, 0, 4, 2], "area": 8, "iscrowd": 0}
    name = "a_label_ground-truth_coco-panoptic.png"
    write(
        root / f"export_coco-panoptic_{RELEASE}.json",
        segments_content({"segments_info": [info], "file_name": name, "image_id": 1}),
    )
    save(segments_folder(root) / name, np.dstack([(LABELS == 1) * 7, 0 * LABELS, 0 * LABELS]).astype(np.uint8))


def segments_semantic(root: Path):
    """Numbers of the categories, 0 for none, beside the images."""
    save(segments_folder(root) / "a_label_ground-truth_semantic.png", ((LABELS == 1) * 2).astype(np.uint8))


def segments_content(*annotations: dict) -> dict:
    category = {"id": 2, "name": "dog", "color": [0, 113, 188], "isthing": 1, "has_instances": True}
    return {
        "info": {"description": "cells", "version": "v1"},
        "categories": [category],
        "images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": list(annotations),
    }


def segments_folder(root: Path) -> Path:
    """Where the images are; bitmaps of the labels, with numbers of 32 bits in RGBA, lie beside them."""
    folder = root / "segments" / "me_cells" / "v1"
    save(folder / "a.jpg")
    save(folder / "a_label_ground-truth.png", np.dstack([(LABELS == 1), *[0 * LABELS] * 3]).astype(np.uint8))
    return folder


def fiftyone(root: Path):
    """A detection with a mask, without "iscrowd", and one without a mask, which has no segmentation."""
    object_ = {"id": 1, "image_id": 1, "category_id": 0, **BOX, "segmentation": [POLYGON], "score": 0.5}
    content = {
        "info": {"year": "", "version": "", "description": "Exported from FiftyOne"},
        "licenses": [],
        "categories": [{"id": 0, "name": "dog", "supercategory": None}],
        "images": [
            {"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH, "license": None, "coco_url": None}
        ],
        "annotations": [object_, {"id": 2, "image_id": 1, "category_id": 0, **BOX}],
    }
    write(root / "labels.json", content)
    save(root / "data" / "a.jpg")


def via_coco(root: Path):
    """Its export has a flat polygon, and no category where the class is no list of choices."""
    image = {"id": 0, "file_name": "a.png", "width": WIDTH, "height": HEIGHT, "license": 1, "coco_url": ""}
    entry = {"id": 0, "image_id": "0", "segmentation": POLYGON, **BOX, "iscrowd": 0}
    write(root / "via_export_coco.json", {"info": {}, "images": [image], "annotations": [entry], "categories": []})
    save(root / "a.png")


def labelbox(root: Path, *others: dict):
    polygon = {"annotation_kind": "ImagePolygon", "polygon": [{"x": x, "y": y} for x, y in OUTLINE]}
    objects = [{"feature_id": "cl1", "name": "dog", "value": "dog", **polygon}, *others]
    label = {"label_kind": "Default", "id": "cl2", "annotations": {"objects": objects, "classifications": []}}
    row = {
        "data_row": {"id": "cl3", "external_id": "a.png", "row_data": "https://storage/x%2Fa.png?token=1"},
        "media_attributes": {"height": HEIGHT, "width": WIDTH, "mime_type": "image/png", "exif_rotation": "1"},
        "projects": {"cl4": {"name": "animals", "labels": [label], "project_details": {}}},
    }
    (root / "export.ndjson").write_text(json.dumps(row) + "\n")
    save(root / "a.png")


def labelbox_with_masks(root: Path):
    mask = {"annotation_kind": "ImageSegmentationMask", "mask": {"url": "https://api.labelbox.com/masks/cl5.png"}}
    labelbox(root, {"feature_id": "cl5", "name": "cat", "value": "cat", **mask})


def write(path: Path, content: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_yolo(path: Path, close: bool):
    path.parent.mkdir(parents=True, exist_ok=True)
    points = [*OUTLINE, OUTLINE[0]] if close else OUTLINE
    path.write_text("0 " + " ".join(f"{x / WIDTH:.16g} {y / HEIGHT:.16g}" for x, y in points))
