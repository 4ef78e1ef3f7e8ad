"""The COCO instance reader, on a json made here and on the bundled images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from m2f.data.coco_instances import CocoInstances, decode_segmentation

NUCLEI = Path(__file__).parents[2] / "examples" / "nuclei"

# Drawn by hand, 4 rows of 5: column-major runs of 6 off, 2 on, 1 off, 2 on, 9 off.
SQUARE = np.array([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 0, 0, 0]], np.uint8)
SQUARE_RUNS = [6, 2, 1, 2, 9]


@pytest.fixture
def content():
    """Two images (one without annotations), categories 7 and 3, all three forms of a segmentation, one crowd."""
    compressed = coco_mask.encode(np.asfortranarray(SQUARE))
    segmentations = [
        {"size": [4, 5], "counts": compressed["counts"].decode()},
        {"size": [4, 5], "counts": SQUARE_RUNS},
        [[1, 1, 4, 1, 4, 3, 1, 3]],
        {"size": [4, 5], "counts": [0, 20]},
    ]
    annotations = [
        {"id": 10 + i, "image_id": 1, "category_id": category, "segmentation": segmentation, "iscrowd": int(i == 3)}
        for i, (segmentation, category) in enumerate(zip(segmentations, (7, 3, 7, 7), strict=True))
    ]
    images = [
        {"id": 1, "file_name": "a.png", "height": 4, "width": 5},
        {"id": 2, "file_name": "b.png", "height": 3, "width": 2},
    ]
    categories = [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def write(tmp_path):
    """Writes a json and its images and gives the json's path."""

    def write_json(content) -> Path:
        Image.new("L", (5, 4), 9).save(tmp_path / "a.png")
        Image.new("RGB", (2, 3)).save(tmp_path / "b.png")
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return path

    return write_json


def test_all_forms_of_segmentation_become_masks_and_crowds_are_left_out(content, write):
    sample = CocoInstances(write(content))[0]
    rectangle = np.zeros((4, 5), np.uint8)
    rectangle[1:3, 1:4] = 1
    np.testing.assert_array_equal(sample.masks, np.stack([SQUARE, SQUARE, rectangle]))
    assert sample.masks.dtype == np.uint8
    # Categories 3 and 7 are classes 0 and 1, in the order of their ids.
    np.testing.assert_array_equal(sample.class_ids, [1, 0, 1])
    assert (sample.image.mode, sample.image.size, sample.image_id) == ("RGB", (5, 4), 1)


def test_classes_are_numbered_by_category_id(content, write):
    dataset = CocoInstances(write(content))
    assert (dataset.category_ids, dataset.id2label) == ([3, 7], {0: "three", 1: "seven"})


def test_image_without_annotations_has_no_masks_of_its_size(content, write):
    dataset = CocoInstances(write(content))
    assert len(dataset) == 2
    assert dataset[1].masks.shape == (0, 3, 2)
    assert dataset[1].class_ids.dtype == np.int64


def test_images_may_lie_in_another_folder(content, write, tmp_path):
    path = write(content)
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / name).rename(tmp_path / "images" / name)
    assert CocoInstances(path, tmp_path / "images")[1].image_id == 2
    with pytest.raises(FileNotFoundError, match=r"b\.png \(image 2 of .*instances\.json\)"):
        CocoInstances(path)[1]


def test_same_masks_as_pycocotools_on_the_bundled_images():
    """pycocotools' own reader gives the expected masks."""
    dataset = CocoInstances(NUCLEI / "val.json", NUCLEI / "val")
    truth = COCO(str(NUCLEI / "val.json"))
    for index in (0, len(dataset) - 1):
        sample = dataset[index]
        annotations = truth.loadAnns(truth.getAnnIds(sample.image_id))
        expected = np.stack([truth.annToMask(annotation) for annotation in annotations])
        np.testing.assert_array_equal(sample.masks, expected)
        assert sample.masks.sum((1, 2)).tolist() == [annotation["area"] for annotation in annotations]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [5, 4], "counts": [20]}, r"size is \[5, 4\], but the image is \[4, 5\]"),
        ({"size": [4, 5], "counts": [6, 2]}, "runs sum to 8; 4 x 5 = 20"),
        ({"size": [4, 5], "counts": [-1, 21]}, "runs sum to 20"),
        ({"size": [4, 5], "counts": "zzzz"}, "Invalid RLE"),
        ({"size": [4, 5]}, "NoneType"),
        ([[0, 0, 1, 1]], "at least 3 points"),
        ([[0, 0, 1, 1, 2, 0, 1]], "even count"),
        ([], "neither"),
        ("text", "neither"),
    ],
)
def test_bad_segmentation_names_file_and_annotation(content, write, segmentation, message):
    content["annotations"][1]["segmentation"] = segmentation
    dataset = CocoInstances(write(content))
    with pytest.raises(ValueError, match=rf"instances\.json, annotation 11: .*{message}"):
        dataset[0]


@pytest.mark.parametrize(("key", "value"), [("image_id", 5), ("category_id", 5)])
def test_annotation_of_an_unknown_image_or_category_is_refused(content, write, key, value):
    content["annotations"][2][key] = value
    with pytest.raises(ValueError, match=f"annotation 12: {key} 5 is not among"):
        CocoInstances(write(content))


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_missing_sections_and_keys_are_named(content, write, section):
    first_key = {"images": "file_name", "annotations": "segmentation", "categories": "name"}[section]
    del content[section][1][first_key]
    with pytest.raises(ValueError, match=rf"entry \d+ of '{section}' has no '{first_key}'"):
        CocoInstances(write(content))
    del content[section]
    with pytest.raises(ValueError, match=f"no list '{section}'"):
        CocoInstances(write(content))


def test_ids_that_appear_twice_are_refused(content, write):
    content["images"][1]["id"] = 1
    with pytest.raises(ValueError, match=r"image ids appear more than once: \[1\]"):
        CocoInstances(write(content))


def test_a_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match=r"x\.json is not a json file"):
        CocoInstances(tmp_path / "x.json")


def test_image_of_another_size_or_undecodable_is_refused(content, write, tmp_path):
    dataset = CocoInstances(write(content))
    Image.new("RGB", (3, 2)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png is 2 x 3 .* says 3 x 2 for image 2"):
        dataset[1]
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cannot decode .*b\.png"):
        dataset[1]


def test_polygons_of_one_object_are_joined():
    joined = decode_segmentation([[0, 0, 1, 0, 1, 1, 0, 1], [3, 3, 5, 3, 5, 4, 3, 4]], 4, 5)
    assert joined.sum() == 3
    assert joined[0, 0] == joined[3, 3] == joined[3, 4] == 1
