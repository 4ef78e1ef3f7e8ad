"""Rows of Labelbox; pycocotools rasterises the expected polygons, numpy draws the rest."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f.data.dataset_formats import open_dataset

SIZE = HEIGHT, WIDTH = 30, 40
POINTS = [(1, 2), (12, 2.5), (6, 14)]
POLYGON = {"name": "dog", "polygon": [{"x": x, "y": y} for x, y in POINTS]}
BOX = {"name": "cat", "bounding_box": {"top": 3, "left": 20, "height": 7, "width": 6}}
MASK = {"name": "cat", "annotation_kind": "ImageSegmentationMask", "mask": {"url": "https://api.labelbox.com/x"}}


def row(*objects: dict, name: str = "a.jpg", labels: int = 1, **data) -> dict:
    label = {"label_kind": "Default", "annotations": {"objects": list(objects), "classifications": []}}
    return {
        "data_row": {"id": "cl1", "external_id": name, **data},
        "media_attributes": {"height": HEIGHT, "width": WIDTH},
        "projects": {"p1": {"name": "x", "labels": [label] * labels}},
    }


def write(folder, *rows, name: str = "export.ndjson"):
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "a.jpg")
    lines = "\n".join(map(json.dumps, rows))
    (folder / name).write_text(lines + "\n" if name.endswith("json") and "nd" in name else json.dumps(rows))


@pytest.mark.parametrize("name", ["export.ndjson", "export.json"])
def test_polygons_and_boxes(tmp_path, name):
    write(tmp_path, row(POLYGON, BOX), name=name)
    for path in (tmp_path, tmp_path / name):
        dataset = open_dataset(path)
        assert (dataset.format, dataset.split, dataset.id2label) == ("labelbox", "train", {0: "cat", 1: "dog"})
    segments = dataset[0].segments
    assert segments.class_ids.tolist() == [1, 0]
    outline = [[value for point in POINTS for value in point]]
    expected = coco_mask.decode(coco_mask.frPyObjects(outline, HEIGHT, WIDTH))[..., 0]
    box = np.zeros(SIZE)
    box[3:10, 20:26] = 1
    np.testing.assert_array_equal(segments.masks(), [expected, box])


def test_images_are_found_by_their_names(tmp_path):
    """By the external id, else by the name in the address."""
    write(tmp_path, row(POLYGON, name="unknown", row_data="https://storage/x%2Fa.jpg?Expires=1"), row(name="b.jpg"))
    dataset = open_dataset(tmp_path)
    assert dataset.image_path(0) == tmp_path / "a.jpg" and len(dataset[0].segments.class_ids) == 1
    with pytest.raises(FileNotFoundError, match="b.jpg"):
        dataset[1]


def test_rows_without_a_label_have_no_objects(tmp_path):
    write(tmp_path, row(POLYGON), row(labels=0), {"data_row": {"external_id": "a.jpg"}})
    assert [len(sample.segments.class_ids) for sample in open_dataset(tmp_path)] == [1, 0, 0]


def test_masks_are_left_out_if_one_says_so(tmp_path):
    write(tmp_path, row(POLYGON, MASK))
    with pytest.raises(ValueError, match=r"1 of 2 shapes are no areas \(mask on Labelbox's server\)"):
        open_dataset(tmp_path)[0]
    dataset = open_dataset(tmp_path, drop_others=True)
    assert dataset.id2label == {0: "dog"} and len(dataset[0].segments.class_ids) == 1


def test_of_several_labels_one_counts(tmp_path):
    entry = row(POLYGON, labels=2)
    entry["projects"]["p2"] = row(BOX)["projects"]["p1"]
    write(tmp_path, entry)
    with pytest.raises(ValueError, match="image a.jpg: it has 3 labels; say which .* annotation=first"):
        open_dataset(tmp_path)[0]
    for choice, name in (("first", "dog"), ("last", "cat")):
        assert open_dataset(tmp_path, annotation=choice).id2label == {0: name}


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([{**POLYGON, "polygon": [7]}], "object 0: 'point' is 7; a dict is needed"),
        ([{**POLYGON, "polygon": [{"x": 1}]}], "annotation object 0: None is no number"),
        ([{**BOX, "bounding_box": {"top": "1"}}], "annotation object 0: None is no number"),
        ([{**POLYGON, "name": 5}], "object 0: 'name' is 5; a text is needed"),
        ([7], "object 0: 7 stands where a dict is needed"),
        ([{"name": "x", "line": [], "annotation_kind": "ImagePolyline"}], r"no areas \(ImagePolyline\)"),
    ],
)
def test_what_is_wrong_is_an_error_of_its_image(tmp_path, objects, message):
    write(tmp_path, row(*objects))
    with pytest.raises(ValueError, match=message) as error:
        open_dataset(tmp_path)[0]
    assert f"{tmp_path / 'export.ndjson'}, image a.jpg" in str(error.value)


@pytest.mark.parametrize("text", ["", "{}", '{"data_row": {}}\n{', "[1]", "[" * 9999])
def test_another_file_is_no_export(tmp_path, text):
    (tmp_path / "x.ndjson").write_text(text)
    with pytest.raises(ValueError, match="x.ndjson is no json of Labelbox's rows"):
        open_dataset(tmp_path / "x.ndjson", format="labelbox")
