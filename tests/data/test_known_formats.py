"""What is recognised without being read: files as the tools' documentation has them, cut to what tells them."""

import json

import pytest
from PIL import Image

from m2f.data.dataset_formats import open_dataset

SHAPES = {"version": "5.0", "flags": {}, "shapes": [{"label": "a", "shape_type": "polygon"}], "imagePath": "a.png"}
TASK = [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [{"from_name": "label", "type": "x"}]}]}]
PREDICTION = {"image_id": 1, "category_id": 1, "segmentation": {"size": [3, 4], "counts": "x"}, "score": 0.5}
VIA = {"a.png9": {"filename": "a.png", "size": 9, "regions": []}}
SLY = {"description": "", "size": {"height": 3, "width": 4}, "objects": [{"classTitle": "a", "bitmap": {}}]}
DATUMARO = {"info": {}, "categories": {"label": {}}, "items": [{"id": "a", "annotations": []}]}
LABELME_XML = "<annotation>\n<filename>a.png</filename><folder/><source><sourceImage/></source><imagesize><nrows>1"
CASES = {
    "deep/er/a.json": (SHAPES, "LabelMe's json ('deep/er/a.json'): give the folder of its jsons with --format label"),
    "deep/er/tasks.json": (TASK, "Label Studio's json ('deep/er/tasks.json'): give the json itself with --form"),
    "deep/er/via.json": (VIA, "VGG Image Annotator's json ('deep/er/via.json'): give the json itself with"),
    "project.json": ({"_via_settings": {}, "_via_img_metadata": {}}, "VGG Image Annotator's json"),
    "instances_val2017.segm.json": ([PREDICTION], "COCO's results (predictions)"),
    "default.json": (DATUMARO, "Datumaro's json ('default.json'): convert it with `datum convert -if datumaro"),
    "ann/a.png.json": (SLY, "Supervisely's json ('ann/a.png.json')"),
    "sa_1.json": ({"image": {"image_id": 1}, "annotations": [{"segmentation": {}}]}, "Segment Anything's json"),
    "captions_val.json": ({"images": [], "annotations": [{"caption": "a"}]}, "COCO's captions, key points or boxes"),
    "deep/task/a.json": ({"images": [], "annotations": [{"segmentation": 0}]}, "COCO's json ('deep/task/a.json')"),
    "min.json": ([{"image": "a.png", "label": [{"polygonlabels": ["x"]}]}], "Label Studio's JSON-MIN ('min.json')"),
    "export.ndjson": ({"DataRow ID": "x", "Labeled Data": "https://x/a.png"}, "Labelbox's older json"),
    "annotations.xml": ("<?xml?>\n<annotations>\n <version>1.1", "CVAT's xml of a video ('annotations.xml'): export"),
    "x/a.xml": (LABELME_XML, "the xml of LabelMe's web tool ('x/a.xml'): convert it with `datum convert -if label_me"),
    "Annotations/a.xml": ("<annotation><folder>x</folder><filename>a.jpg</filename>", "Pascal VOC's xml"),
    "train-masks.csv": ("MaskPath,ImageID,LabelName,BoxID\n", "Open Images' csv"),
    "train.csv": ("picture,annotation\na.jpg,1 3\n", "a csv of run lengths (Kaggle)"),
    "via.csv": ("filename,file_size,region_count,region_shape_attributes\n", "VGG Image Annotator's csv"),
    "export.zip": ("PK", "an archive ('export.zip'): unpack it and give the folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_another_format_is_named_with_the_way_in(tmp_path, name):
    content, message = CASES[name]
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    # Too deep to be found, or given by itself, is what could be read.
    for path in (tmp_path,) if name.startswith("deep/") else (tmp_path, file):
        with pytest.raises(ValueError) as error:
            open_dataset(path)
        place = "" if path == tmp_path else f"{file.parent.name}/"
        assert f"{path} is not read as it is. It holds {message.replace(place, '')}" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("training/image_2", "training/semantic"), "KITTI (training/image_2 and training/semantic): give image_2"),
        (("training/image_2", "training/instance"), "KITTI (training/image_2 and training/instance): convert it"),
    ],
)
def test_a_folder_of_another_format_is_named_with_the_way_in(tmp_path, folders, message):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(ValueError) as error:
        open_dataset(tmp_path)
    assert f"It holds {message}" in str(error.value)


def test_a_name_in_a_message_brings_no_control_characters(tmp_path):
    (tmp_path / "a\x1b[31m.zip").touch()
    with pytest.raises(ValueError) as error:
        open_dataset(tmp_path)
    assert r"'a\x1b[31m.zip'" in str(error.value) and "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "is_named"), [("masks/a.jpg", True), ("train/Labels/a.gif", True), ("x/a.jpg", False)]
)
def test_label_maps_that_are_not_read_are_named(tmp_path, name, is_named):
    for place in ("images/a.jpg", name):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2)).save(tmp_path / place)
    with pytest.raises(ValueError) as error:
        open_dataset(tmp_path)
    place, suffix = name.rpartition("/")[0], name[-4:]
    wanted = f"{suffix} files in {place!r}, which may be label maps: write them as PNG or TIFF"
    assert (wanted in str(error.value)) == is_named
