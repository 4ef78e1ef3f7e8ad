"""The table "Your tool, and what to type" of docs/training.md: each row's command checks a folder made here."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_datasets import (
    LABELS,
    colours_of,
    make_cvat,
    make_kaggle,
    make_label_studio,
    make_labelme,
    make_object_masks,
    make_via,
    save,
    write_names,
)
from tool_exports import (
    cvat_coco,
    cvat_coco_masks,
    fiftyone,
    labelbox,
    labelbox_with_masks,
    roboflow_coco,
    roboflow_yolo,
    segments_instance,
    segments_panoptic,
    segments_vector,
    ultralytics,
    via_coco,
)

from m2f.cli import command_parser
from m2f.data.dataset_check import check_dataset

TEXT = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
ROWS = re.findall(
    r"^\| ([^|]+) \| [^|]+ \| `(m2f check DATA[^`]*)` \|$",
    TEXT.partition("### Your tool")[2].partition("\n## ")[0],
    re.MULTILINE,
)
POINT = {"label": "nose", "points": [[1, 1]], "group_id": None, "shape_type": "point", "flags": {}}


def change(path: Path, edit: Callable):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def labelme_with_points(root: Path):
    make_labelme(root)
    change(root / "train" / "a.json", lambda content: content["shapes"].append(POINT))


def via_with_attributes(root: Path):
    make_via(root)
    file = root / "train" / "via_region_data.json"
    change(file, lambda content: content["a.png77"]["regions"][0]["region_attributes"].update(colour="red"))


def label_studio_with_annotators(root: Path):
    make_label_studio(root)
    change(root / "train" / "tasks.json", lambda content: content[0]["annotations"].append({"result": []}))


def cvat_masks(root: Path):
    save(root / "JPEGImages" / "a.png")
    pixels = colours_of(LABELS) * (LABELS == 1)[..., None]
    save(root / "SegmentationClass" / "a.png", pixels)
    save(root / "SegmentationObject" / "a.png", pixels)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n")
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:128,0,0::\n")


def voc(root: Path):
    cvat_masks(root)
    (root / "labelmap.txt").unlink()
    for folder in ("SegmentationClass", "SegmentationObject"):
        save(root / folder / "a.png", np.where(LABELS == 1, 12, 255).astype(np.uint8))


def kaggle_along_rows(root: Path):
    save(root / "train" / "a.png")
    (root / "train.csv").write_text("id,annotation,width,height,cell_type\na,1 8,4,3,dog\n")


def bowl(root: Path):
    save(root / "stage1_train" / "x1" / "images" / "x1.png")
    save(root / "stage1_train" / "x1" / "masks" / "m1.png", (LABELS == 1).astype(np.uint8) * 255)


def camvid(root: Path):
    save(root / "train" / "x.png")
    save(root / "train_labels" / "x_L.png", colours_of(LABELS))
    (root / "class_dict.csv").write_text("name,r,g,b\ncat,0,128,0\ndog,128,0,0\nvoid,9,9,9\n")


def camvid_of_segnet(root: Path):
    save(root / "train" / "x.png")
    labels = np.where(LABELS == 1, 1, 11).astype(np.uint8)
    labels[-1, -1] = 0
    save(root / "trainannot" / "x.png", labels)


def colour_table(root: Path):
    save(root / "images" / "a.png")
    save(root / "masks" / "a.png", colours_of(LABELS))
    (root / "t.txt").write_text("0 128 0 cat\n128 0 0 dog\n9 9 9 void\n")


def pair(image: str, labels: str) -> Callable[[Path], None]:
    def make(root: Path):
        save(root / image)
        save(root / labels, LABELS)
        write_names(root)

    return make


MAKERS = {
    "LabelMe, X-AnyLabeling": make_labelme,
    "LabelMe, with points and lines": labelme_with_points,
    "VGG Image Annotator (VIA 1, 2)": make_via,
    "VIA, several region attributes": via_with_attributes,
    "Label Studio": make_label_studio,
    "Label Studio, several annotators": label_studio_with_annotators,
    "CVAT": make_cvat,
    "CVAT, classes": cvat_masks,
    "CVAT, objects": cvat_masks,
    "CVAT, polygons": cvat_coco,
    "CVAT, masks": cvat_coco_masks,
    "Roboflow, COCO": roboflow_coco,
    "Roboflow, YOLO": roboflow_yolo,
    "Ultralytics": ultralytics,
    "Segments.ai, bitmaps": segments_instance,
    "Segments.ai, polygons": segments_vector,
    "Segments.ai, panoptic": segments_panoptic,
    "Labelbox, polygons": labelbox,
    "Labelbox, with masks": labelbox_with_masks,
    "FiftyOne": fiftyone,
    "VIA, COCO": via_coco,
    "Pascal VOC, classes": voc,
    "Pascal VOC, objects": voc,
    "Kaggle's run lengths": make_kaggle,
    "Kaggle's, along rows": kaggle_along_rows,
    "Data Science Bowl 2018": bowl,
    "pycococreator": make_object_masks,
    "CamVid, colours": camvid,
    "CamVid of SegNet": camvid_of_segnet,
    "another colour table": colour_table,
    "image and label": pair("image/x.jpg", "label/x.png"),
    "one folder": pair("x.jpg", "x_mask.png"),
    "other names": pair("scans/train/x.jpg", "truth/train/x.png"),
}
# What the object, the first two rows of the image, is called; "dog" where it is not here.
NAMES = {"Data Science Bowl 2018": "object", "CamVid of SegNet": "1", "VIA, COCO": "object"}


def test_each_row_has_a_folder():
    assert [row for row, _ in ROWS] == list(MAKERS) and len(ROWS) >= 20


@pytest.mark.parametrize(("row", "command"), ROWS)
def test_the_command_reads_it(tmp_path, row, command):
    MAKERS[row](tmp_path)
    words = [word.replace("DATA", str(tmp_path)) for word in shlex.split(command)]
    args = command_parser("check").parse_args(words[2:])
    report = check_dataset(args.data, None, args.format, args.image_folder, dict(args.data_options), workers=1)
    assert report.count("error") == 0, report.findings
    split = next((split for split in report.readers if "train" in split), next(iter(report.readers)))
    reader = report.readers[split]
    assert report.splits[split].images == 1
    segments = reader[0].segments
    names = [reader.id2label[label] for label in segments.class_ids.tolist()]
    number = names.index(NAMES.get(row, "dog"))
    np.testing.assert_array_equal(segments.masks()[number], LABELS == 1)
    assert len(names) == 1 + (row in ("CVAT, classes", "CamVid of SegNet"))  # and the background
