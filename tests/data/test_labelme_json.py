"""LabelMe's json files; pycocotools rasterises the expected masks, or numpy where they are drawn by hand."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f.data.dataset_formats import list_splits, open_dataset
from m2f.data.labelme_json import LabelMe

SIZE = HEIGHT, WIDTH = 30, 40
TRIANGLE = [[1.5, 2.0], [12.0, 2.5], [6.0, 14.0]]
SQUARE = [[20, 3], [26, 3], [26, 9], [20, 9]]


def png(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def shape(label: str, points: list, shape_type: str = "polygon", **more) -> dict:
    return {"label": label, "points": points, "group_id": None, "shape_type": shape_type, "flags": {}, **more}


def write(folder, name: str, shapes: list, **more):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{name}.jpg")
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    content = {"version": "5.5.0", "shapes": shapes, "imagePath": f"{name}.jpg", "imageData": "AAAA", **size, **more}
    (folder / f"{name}.json").write_text(json.dumps(content))


def rasterised(*polygons: list) -> np.ndarray:
    flat = [np.ravel(polygon).astype(float).tolist() for polygon in polygons]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, HEIGHT, WIDTH)))


def test_every_kind_of_shape(tmp_path):
    small = np.array([[True, False, True], [False, True, True]])
    shapes = [
        shape("dog", TRIANGLE),
        shape("cat", [[30, 20], [22, 12]], "rectangle"),
        shape("cat", [[30, 20], [22, 20], [22, 12], [30, 12]], "rectangle"),  # X-AnyLabeling's
        shape("dog", [[10.0, 20.0], [16.0, 20.0]], "circle"),
        shape("dog", [[5, 7], [7, 8]], "mask", mask=png(small)),
        {"label": "cat", "points": SQUARE},  # of old versions
    ]
    write(tmp_path, "a", shapes)
    dataset = open_dataset(tmp_path)
    assert (dataset.format, dataset.task, dataset.split, dataset.id2label) == (
        "labelme", "instance", "train", {0: "cat", 1: "dog"},
    )  # fmt: skip
    segments = dataset[0].segments
    assert segments.class_ids.tolist() == [1, 0, 0, 1, 1, 0]
    masks = segments.masks()
    np.testing.assert_array_equal(masks[0], rasterised(TRIANGLE))
    box = np.zeros(SIZE, np.uint8)
    box[12:20, 22:30] = 1
    np.testing.assert_array_equal(masks[1:3], [box, box])
    distance = np.hypot(*(np.mgrid[:HEIGHT, :WIDTH] + 0.5 - np.array([20, 10])[:, None, None]))
    assert masks[3][distance < 5.3].all() and not masks[3][distance > 6.7].any()
    placed = np.zeros(SIZE, np.uint8)
    placed[7:9, 5:8] = small  # its last row and column belong to the box
    np.testing.assert_array_equal(masks[4], placed)
    np.testing.assert_array_equal(masks[5], rasterised(SQUARE))


def test_parts_of_a_group_are_one_object(tmp_path):
    mask = np.ones((2, 2), bool)
    shapes = [
        shape("dog", TRIANGLE, group_id=3),
        shape("dog", [[0, 0], [5, 0], [5, 5]]),
        shape("dog", SQUARE, group_id=3),
        shape("cat", SQUARE, group_id=3),  # another label is another object
        shape("dog", [[35, 25], [36, 26]], "mask", mask=png(mask), group_id=3),
    ]
    write(tmp_path, "a", shapes)
    segments = open_dataset(tmp_path)[0].segments
    assert segments.class_ids.tolist() == [1, 1, 0]
    expected = rasterised(TRIANGLE, SQUARE)
    expected[25:27, 35:37] = 1
    np.testing.assert_array_equal(segments.masks()[0], expected)
    np.testing.assert_array_equal(segments.masks()[2], rasterised(SQUARE))  # it keeps what lies under it


def test_ignored_regions(tmp_path):
    write(tmp_path, "a", [shape("__ignore__", SQUARE), shape("dog", [[20, 3], [23, 3], [23, 9], [20, 9]])])
    dataset = open_dataset(tmp_path)
    segments = dataset[0].segments
    assert dataset.id2label == {0: "dog"} and segments.class_ids.tolist() == [0]
    np.testing.assert_array_equal(segments.ignored(), (rasterised(SQUARE) - segments.masks()[0]).astype(bool))


def test_splits_share_their_classes_and_names_may_be_given(tmp_path):
    write(tmp_path / "train", "a", [shape("dog", TRIANGLE)])
    write(tmp_path / "val", "b", [shape("cat", TRIANGLE)])
    (tmp_path / "train" / "other.json").write_text('{"a": 1}')  # not LabelMe's
    assert list_splits(tmp_path) == ["train", "val"]
    assert open_dataset(tmp_path, "train").id2label == open_dataset(tmp_path, "val").id2label == {0: "cat", 1: "dog"}
    assert open_dataset(tmp_path, "train", id2label=["dog"])[0].segments.class_ids.tolist() == [0]
    with pytest.raises(ValueError, match=r"b.json, annotation shape 0: the class 'cat' is none of \['dog'\]"):
        open_dataset(tmp_path, "val", id2label=["dog"])[0]


def test_images_in_a_folder_beside(tmp_path):
    write(tmp_path / "pictures", "a", [])
    write(tmp_path / "labels", "b", [shape("dog", TRIANGLE)], imagePath="..\\pictures\\a.jpg")
    (tmp_path / "pictures" / "a.json").unlink()
    dataset = open_dataset(tmp_path)
    assert dataset.image_path(0) == tmp_path / "pictures" / "a.jpg" and len(dataset) == 1
    dataset = LabelMe(tmp_path / "labels", tmp_path / "pictures")
    assert dataset.name_of(0) == "a.jpg" and dataset[0].image.size == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([shape("dog", [[1, 1]], "point"), shape("dog", TRIANGLE)], r"1 of 2 shapes are no areas .*drop_others"),
        ([shape("dog", [[1, 1], [2, 2]])], "annotation shape 0: a polygon needs x and y of at least 3 points"),
        ([shape("dog", [[1, 1], [2, 2], [3, 3]], "rectangle")], "annotation shape 0: 6 numbers are given"),
        ([shape("dog", [[1, None], [2, 2], [3, 3]])], "None is no number"),
        ([shape("dog", [[0, 0], [1e6, 2], [3, 3]])], "reaches from 0.0 to 1000000.0 pixels, too far outside"),
        ([shape(" ", TRIANGLE)], "shape 0: its label is empty"),
        ([shape(7, TRIANGLE)], "shape 0: 'label' is 7; a text is needed"),
        (["x"], "shape 0: 'x' stands where a dict is needed"),
        ([shape("dog", [[0, 0], [1, 1]], "mask", mask="%")], "the mask is no base64"),
        ([shape("dog", [[0, 0], [1, 1]], "mask", mask="AAAA")], "cannot decode the mask"),
        ([shape("dog", [[0, 0], [5, 5]], "mask", mask=png(np.ones((2, 2), bool)))], "the mask is 2 x 2 .* 5, 5"),
        ([shape("dog", [[39, 0], [40, 1]], "mask", mask=png(np.ones((2, 2), bool)))], "reaches beyond the image"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_an_error_of_its_image(tmp_path, shapes, message):
    write(tmp_path, "a", shapes)
    write(tmp_path, "b", [shape("dog", SQUARE)])
    dataset = open_dataset(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        dataset[0]
    assert str(tmp_path / "a.json") in str(error.value) and "\n" not in str(error.value)
    assert dataset[1].segments.areas().tolist() == [36]


def test_other_shapes_are_left_out_when_asked(tmp_path):
    write(tmp_path, "a", [shape("nose", [[1, 1]], "point"), shape("dog", SQUARE)])
    dataset = open_dataset(tmp_path, drop_others=True)
    assert dataset.id2label == {0: "dog"} and dataset[0].segments.areas().tolist() == [36]


def test_files_that_do_not_fit(tmp_path):
    write(tmp_path, "a", [shape("dog", SQUARE)])
    write(tmp_path, "b", [], imageHeight=31)
    write(tmp_path, "c", [], imagePath="/etc/absent.jpg")
    write(tmp_path, "d", [], imageHeight=None)  # not written by all tools
    (tmp_path / "e.json").write_text("{")
    dataset = open_dataset(tmp_path)
    with pytest.raises(ValueError, match=r"b.jpg is 30 x 40 .* says 31 x 40"):
        dataset[1]
    with pytest.raises(FileNotFoundError, match="absent.jpg"):
        dataset[2]
    assert dataset[3].segments.size == SIZE
    with pytest.raises(ValueError, match="e.json is not a json file"):
        dataset[4]
