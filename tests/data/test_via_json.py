"""Regions of VIA 1 and 2; pycocotools rasterises the expected polygons, numpy draws the rest."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f.data.dataset_formats import open_dataset

SIZE = HEIGHT, WIDTH = 30, 40
POLYGON = {"name": "polygon", "all_points_x": [1, 12, 6], "all_points_y": [2, 2.5, 14]}


def region(outline: dict, **attributes) -> dict:
    return {"shape_attributes": outline, "region_attributes": attributes}


def write(folder, regions, project: bool = True, name: str = "via_project.json"):
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "a.jpg")
    images = {"a.jpg123": {"filename": "a.jpg", "size": 123, "regions": regions, "file_attributes": {}}}
    content = {"_via_settings": {}, "_via_img_metadata": images, "_via_attributes": {}} if project else images
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("listed", [True, False])
def test_every_kind_of_region(tmp_path, project, listed):
    """VIA 1 numbers the regions in a dict; ticked boxes stand for the class as well as texts do."""
    regions = [
        region(POLYGON, kind="dog"),
        region({"name": "rect", "x": 20, "y": 3, "width": 6, "height": 7}, kind={"cat": True, "dog": False}),
        region({"name": "circle", "cx": 10, "cy": 20, "r": 6}, kind="dog"),
        region({"name": "ellipse", "cx": 26, "cy": 20, "rx": 3, "ry": 9, "theta": np.pi / 2}, kind="cat "),
    ]
    write(tmp_path, regions if listed else {str(i): entry for i, entry in enumerate(regions)}, project)
    dataset = open_dataset(tmp_path)
    assert (dataset.format, dataset.split, dataset.id2label) == ("via", "train", {0: "cat", 1: "dog"})
    segments = dataset[0].segments
    assert segments.class_ids.tolist() == [1, 0, 1, 0]
    masks = segments.masks()
    polygon = [[1, 2, 12, 2.5, 6, 14]]
    np.testing.assert_array_equal(masks[0], coco_mask.decode(coco_mask.frPyObjects(polygon, *SIZE))[..., 0])
    box = np.zeros(SIZE)
    box[3:10, 20:26] = 1
    np.testing.assert_array_equal(masks[1], box)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    distance = np.hypot(rows - 20, columns - 10)
    assert masks[2][distance < 5.3].all() and not masks[2][distance > 6.7].any()
    turned = np.hypot((rows - 20) / 3, (columns - 26) / 9)  # by a quarter: wide instead of high
    assert masks[3][turned < 0.75].all() and not masks[3][turned > 1.25].any()


def test_without_attributes_all_are_objects(tmp_path):
    write(tmp_path, [region(POLYGON)])
    assert open_dataset(tmp_path).id2label == {0: "object"}


def test_splits_in_folders_share_their_classes(tmp_path):
    """As Matterport's balloons."""
    write(tmp_path / "train", [region(POLYGON, name="dog")], name="via_region_data.json")
    write(tmp_path / "val", [region(POLYGON, name="cat")], name="via_region_data.json")
    dataset = open_dataset(tmp_path, "val")
    assert dataset.id2label == {0: "cat", 1: "dog"}
    assert dataset.image_path(0) == tmp_path / "val" / "a.jpg" and dataset[0].segments.class_ids.tolist() == [0]


def test_several_attributes_need_a_word(tmp_path):
    write(tmp_path, [region(POLYGON, kind="dog", colour="red")])
    with pytest.raises(ValueError, match="attributes kind, colour; say .* --data-options class_attribute=NAME"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, class_attribute="colour").id2label == {0: "red"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (region({"name": "point", "cx": 1, "cy": 2}, kind="dog"), r"1 of 1 shapes are no areas \(point\)"),
        (region({"name": "rect", "x": 1, "y": 2}, kind="dog"), "region 0: None is no number"),
        (region({**POLYGON, "all_points_x": [1]}, kind="dog"), "region 0: there are 1 x and 3 y"),
        (region({**POLYGON, "all_points_x": [1, 2, "a"]}, kind="dog"), "'a' is no number"),
        (
            region(POLYGON, kind={"a": True, "b": True}),
            "region 0: it has no value, or several, for the attribute 'kind'",
        ),
        (region(POLYGON, kind=""), "region 0: it has no value"),
        (7, "region 0: 7 stands where a dict is needed"),
        (region({}, kind="dog"), "there is no 'name'"),
    ],
)
def test_what_is_wrong_is_an_error_of_its_image(tmp_path, entry, message):
    write(tmp_path, [entry])
    with pytest.raises(ValueError, match=message) as error:
        open_dataset(tmp_path, class_attribute="kind")[0]
    assert f"{tmp_path / 'via_project.json'}, image a.jpg" in str(error.value)


def test_another_json_that_is_named_via(tmp_path):
    (tmp_path / "x.json").write_text('{"a": {"b": 1}}')
    with pytest.raises(ValueError, match="x.json is no json of VIA: a dict of images with filename and regions"):
        open_dataset(tmp_path / "x.json", format="via")
