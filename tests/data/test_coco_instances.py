"""The COCO instance reader, on a json made here and on the bundled images."""

import io
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from m2f.data.coco_instances import CocoInstances
from m2f.data.dataset_formats import open_dataset
from m2f.image_processing.label_values import IGNORED

NUCLEI = Path(__file__).parents[2] / "examples" / "nuclei"
SQUARE = np.array([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 0, 0, 0]], np.uint8)


@pytest.fixture
def content():
    """Two images (one without annotations), categories 7 and 3, two instances that overlap, one crowd."""
    packed = coco_mask.encode(np.asfortranarray(SQUARE))["counts"].decode()
    segmentations = [
        {"size": [4, 5], "counts": packed},
        [[1, 1, 4, 1, 4, 3, 1, 3]],
        {"size": [4, 5], "counts": [0, 20]},
    ]
    annotations = [
        {"id": 10 + i, "image_id": 1, "category_id": category, "segmentation": segmentation, "iscrowd": int(i == 2)}
        for i, (segmentation, category) in enumerate(zip(segmentations, (7, 3, 7), strict=True))
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


def test_a_sample_has_image_instances_and_ignored_crowd(content, write):
    sample = CocoInstances(write(content))[0]
    rectangle = np.zeros((4, 5), np.uint8)
    rectangle[1:3, 1:4] = 1
    np.testing.assert_array_equal(sample.segments.masks(), np.stack([SQUARE, rectangle]))
    # Categories 3 and 7 are classes 0 and 1, in the order of their ids.
    np.testing.assert_array_equal(sample.segments.class_ids, [1, 0])
    # The crowd covers the image; what belongs to an instance is known.
    np.testing.assert_array_equal(sample.segments.ignored(), ~(SQUARE | rectangle).astype(bool))
    assert (sample.image.mode, sample.image.size, sample.name) == ("RGB", (5, 4), "a.png")


def test_crowds_may_be_background(content, write):
    segments = CocoInstances(write(content), ignore_unknown=False)[0].segments
    assert IGNORED not in segments.ids and len(segments.class_ids) == 2


def test_what_is_told_without_decoding(content, write, tmp_path):
    dataset = CocoInstances(write(content))
    assert (dataset.category_ids, dataset.id2label) == ([3, 7], {0: "three", 1: "seven"})
    assert (dataset.task, dataset.format, dataset.thing_label_ids) == ("instance", "coco-instance", None)
    assert [image.id for image in dataset.images] == [1, 2]
    assert (dataset.name_of(1), dataset.image_path(1)) == ("b.png", tmp_path / "b.png")
    assert len(dataset) == 2


def test_the_split_is_given_or_found_in_the_name(content, write, tmp_path):
    path = write(content)
    assert CocoInstances(path).split == "instances"
    assert CocoInstances(path, split="x").split == "x"
    assert CocoInstances(path.rename(tmp_path / "instances_val2017.json")).split == "val"


def test_image_without_annotations_has_no_segments(content, write):
    segments = CocoInstances(write(content))[1].segments
    assert segments.masks().shape == (0, 3, 2)
    assert segments.class_ids.dtype == np.int64


@pytest.mark.parametrize("folder", ["", "images", "x/images"])
def test_images_are_found_near_the_json(content, write, tmp_path, folder):
    path = write(content)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png"):
        (tmp_path / name).rename(tmp_path / folder / name)
    for dataset in (CocoInstances(path), CocoInstances(path, tmp_path / folder)):
        assert dataset[1].name == "b.png"
        assert dataset.image_path(0) == tmp_path / folder / "a.png"


def test_missing_images_are_named(content, write, tmp_path):
    path = write(content)
    (tmp_path / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such file: .*b\.png \(image 2\)"):
        CocoInstances(path)[1]
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"instances\.json: no folder .* such as a\.png, b\.png; give image_f"):
        CocoInstances(path)


def test_same_masks_as_pycocotools_on_the_bundled_images():
    """pycocotools' own reader gives the expected masks, and the json the areas."""
    dataset = CocoInstances(NUCLEI / "val.json", NUCLEI / "val")
    truth = COCO(str(NUCLEI / "val.json"))
    for index, sample in enumerate(dataset):
        annotations = truth.loadAnns(truth.getAnnIds(dataset.images[index].id))
        expected = np.stack([truth.annToMask(annotation) for annotation in annotations])
        np.testing.assert_array_equal(sample.segments.masks(), expected)
        np.testing.assert_array_equal(sample.segments.areas(), [annotation["area"] for annotation in annotations])
        assert not sample.segments.class_ids.any() and not sample.segments.ignored().any()


def test_bad_segmentation_names_file_and_annotation(content, write):
    content["annotations"][1]["segmentation"] = [[0, 0, 1, 1, 2, 2, 3]]
    dataset = CocoInstances(write(content))
    with pytest.raises(ValueError, match=r"instances\.json, annotation 11: a polygon needs x and y of at least 3 p"):
        dataset[0]


def test_an_annotation_of_an_unknown_category_and_annotations_of_other_images_are_refused(content, write):
    content["annotations"][2]["category_id"] = 5
    with pytest.raises(ValueError, match="annotation 12: category_id 5 is not among"):
        CocoInstances(write(content))
    content["annotations"][2]["category_id"] = 7
    for entry in content["annotations"]:
        entry["image_id"] = 5
    with pytest.raises(
        ValueError, match="annotation 10: image_id 5 is not among the 2 images, and so it is for all 3"
    ):
        CocoInstances(write(content))


def test_bad_pieces_are_left_out_and_counted(content, write):
    """A polygon of two points and an empty one beside a good one, an annotation of two points, one of a box, and one
    of an image that is not there; pycocotools gives the mask of what is good."""
    good = [1, 1, 4, 1, 4, 3, 1, 3]
    pieces = [[good, [0, 0, 1, 1], []], [[0, 0, 1, 1]], []]
    content["annotations"] += [
        {"id": 20 + i, "image_id": 2 if i else 1, "category_id": 3, "segmentation": piece}
        for i, piece in enumerate(pieces)
    ]
    content["annotations"].append({"id": 30, "image_id": 99, "category_id": 3, "segmentation": [good]})
    dataset = CocoInstances(write(content))
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([good], 4, 5)))
    assert len(dataset[0].segments.class_ids) == 3
    np.testing.assert_array_equal(dataset[0].segments.masks()[2], expected)
    assert not len(dataset[1].segments.class_ids)
    assert [text for kind, text in dataset.remarks if kind == "left out"] == [
        "1 of 7 annotations name an image that is not listed; left out",
        "2 of 7 annotations have no polygon of three points (a box is no mask); left out",
        "2 polygons of other annotations have fewer than three points; left out",
    ]
    assert [entry["id"] for entry in dataset.annotations(0)] == [10, 11, 12, 20]


@pytest.mark.parametrize("shape", [{}, {"segmentation": None}, {"bbox": [0, 0, 1, 1]}, {"points": [[1, 1]]}])
def test_an_annotation_without_a_mask_is_left_out(content, write, shape):
    content["annotations"].append({"id": 9, "image_id": 1, "category_id": 3, **shape})
    dataset = CocoInstances(write(content))
    assert len(dataset[0].segments.class_ids) == 2
    assert ("left out", "1 of 4 annotations have no polygon of three points (a box is no mask); left out") in (
        dataset.remarks
    )


def test_points_are_a_polygon(content, write):
    """As Segments.ai writes it; where there is a segmentation, that counts."""
    points = [[1, 1], [4, 1], [4, 3], [1, 3]]
    content["annotations"].append({"id": 9, "image_id": 1, "category_id": 3, "points": points})
    content["annotations"][0]["points"] = points
    masks = CocoInstances(write(content))[0].segments.masks()
    np.testing.assert_array_equal(masks[2], masks[1])
    np.testing.assert_array_equal(masks[0], SQUARE)


@pytest.mark.parametrize("categories", [[], [{"id": 7, "name": "object"}]])
def test_annotations_without_a_category_are_of_the_only_one(content, write, categories):
    for entry in content["annotations"]:
        del entry["category_id"]
    dataset = CocoInstances(write({**content, "categories": categories}))
    assert dataset.id2label == {0: "object"} and dataset[0].segments.class_ids.tolist() == [0, 0]
    with pytest.raises(ValueError, match="id 10 has no 'category_id'"):
        CocoInstances(write(content))  # of two
    content["annotations"][1]["category_id"] = 7
    with pytest.raises(ValueError, match="id 10 has no 'category_id'"):
        CocoInstances(write({**content, "categories": [{"id": 7, "name": "object"}]}))


CORNERS = [[1, 1], [4, 1], [4, 3], [1, 3]]


@pytest.mark.parametrize(
    "form",
    [
        CORNERS,
        [CORNERS],
        [sum(CORNERS, [])],
        [{"size": [4, 5], "counts": [5, 2, 2, 2, 2, 2, 5]}],
        {"size": [4.0, 5.0], "counts": [5.0, 2, 2, 2, 2, 2, 5]},
    ],
)
def test_forms_of_a_segmentation(content, write, form):
    """Points in pairs, run lengths in a list and as floats: the rectangle of rows 1 and 2, columns 1 to 3."""
    content["annotations"][1]["segmentation"] = form
    dataset = CocoInstances(write(content))
    rectangle = np.zeros((4, 5))
    rectangle[1:3, 1:4] = 1
    np.testing.assert_array_equal(dataset[0].segments.masks()[1], rectangle)
    assert len(dataset.remarks) == 1  # of the crowd


def test_shares_of_the_image_are_no_pixels(content, write):
    """As Azure's labelling exports them."""
    for entry in content["annotations"]:
        entry["segmentation"] = [[0.2, 0.25, 1, 0.25, 1, 0.75, 0.2, 0.75]]
    with pytest.raises(
        ValueError, match="instances.json: no polygon reaches beyond 1, as shares .* pixels are needed"
    ):
        CocoInstances(write(content))
    content["annotations"][-1]["segmentation"] = [[0, 0, 2, 0, 2, 2]]
    assert len(CocoInstances(write(content))[0].segments.class_ids) == 2


def test_a_json_without_images_says_so(content, write):
    with pytest.raises(ValueError, match="instances.json lists no image"):
        CocoInstances(write({**content, "images": [], "annotations": []}))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings_of_a_json(content, write, encoding):
    path = write(content)
    path.write_bytes(path.read_text().encode(encoding))
    for dataset in (CocoInstances(path), open_dataset(path.parent, "instances")):
        np.testing.assert_array_equal(dataset[0].segments.masks()[0], SQUARE)


def test_a_json_of_boxes_is_refused(content, write):
    for entry in content["annotations"]:
        entry["segmentation"] = []
    with pytest.raises(
        ValueError, match=r"instances\.json: none of the 3 annotations has a mask \(a box is no mask\)"
    ):
        CocoInstances(write(content))


def test_crowds_are_counted_and_may_be_objects(content, write):
    """The crowd is all of the image, so that pycocotools' own reader has the same masks with the flag or without."""
    path = write(content)
    dataset = CocoInstances(path, crowd="object")
    truth = COCO(str(path))
    expected = [truth.annToMask(annotation) for annotation in truth.loadAnns(truth.getAnnIds(1))]
    np.testing.assert_array_equal(dataset[0].segments.masks(), expected)
    np.testing.assert_array_equal(dataset[0].segments.class_ids, [1, 0, 1])
    assert not dataset[0].segments.ignored().any() and dataset.remarks == []
    start = (
        "of 3 annotations are crowd regions and take no part; annotation tools write this for masks; --data-options"
    )
    assert [(kind, text.split(" ", 1)) for kind, text in CocoInstances(path).remarks] == [
        ("crowd region", ["1", f"{start} crowd=object takes them as objects"])
    ]
    content["annotations"][0]["iscrowd"] = 1
    kind, text = CocoInstances(write(content)).remarks[1]
    assert (kind, text) == ("class of crowd regions", "class 1 'seven' has no other annotation than 2 of these")
    content["annotations"][1]["iscrowd"] = 1
    ((kind, text),) = CocoInstances(write(content)).remarks
    assert kind == "only crowd regions" and text.startswith(f"3 {start}")
    with pytest.raises(ValueError, match="crowd must be one of ignore, object, got 'objects'"):
        CocoInstances(path, crowd="objects")


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_missing_sections_and_keys_are_named(content, write, section):
    key = {"images": "file_name", "annotations": "image_id", "categories": "name"}[section]
    del content[section][1][key]
    with pytest.raises(ValueError, match=rf"instances\.json: '{section}', id \d+ has no '{key}'"):
        CocoInstances(write(content))
    del content[section]
    with pytest.raises(ValueError, match=f"no list '{section}'"):
        CocoInstances(write(content))


@pytest.mark.parametrize("section", ["images", "categories"])
def test_ids_that_appear_twice_are_refused(content, write, section):
    content[section][1]["id"] = content[section][0]["id"]
    with pytest.raises(ValueError, match=rf"instances\.json: '{section}': id \d appears more than once"):
        CocoInstances(write(content))


def test_images_outside_the_folder_are_refused(content, write, tmp_path):
    content["images"][1]["file_name"] = "../c.png"
    Image.new("RGB", (2, 3)).save(tmp_path.parent / "c.png")
    with pytest.raises(ValueError, match=r"instances\.json, image 2 names the file '\.\./c\.png', which is outside"):
        CocoInstances(write(content))


@pytest.mark.parametrize(
    "name", ["../b.png", "C:\\Users\\me\\b.png", "https://host/x/b.png?s=1", "/home/me/b.PNG", "B.png"]
)
def test_images_that_another_machine_named_are_found(content, write, tmp_path, name):
    content["images"][1]["file_name"] = name
    dataset = CocoInstances(write(content))
    assert (dataset.image_path(1), dataset[1].image.size) == (tmp_path / "b.png", (2, 3))
    assert dataset.name_of(1) in ("b.png", "B.png")


def test_an_image_that_may_be_several_files_is_named(content, write, tmp_path):
    content["images"][1]["file_name"] = "z/b.png"
    path = write(content)
    (tmp_path / "b.png").unlink()
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        Image.new("L", (2, 3)).save(tmp_path / folder / "b.png")
    with pytest.raises(FileNotFoundError, match=r"z/b\.png \(image 2, which may be any of 'x/b\.png', 'y/b\.png' in "):
        CocoInstances(path)[1]


def test_values_that_other_tools_write(content, write):
    """pandas' floats, VIA's text ids, flat polygon and repeated categories: the same samples."""
    expected = CocoInstances(write(content))[0].segments
    for image in content["images"]:
        image.update(id=float(image["id"]), height=float(image["height"]), width=float(image["width"]))
    for entry in content["annotations"]:
        entry.update(image_id="1", category_id=float(entry["category_id"]), iscrowd=float(entry["iscrowd"]))
    content["annotations"][1]["segmentation"] = content["annotations"][1]["segmentation"][0]
    content["categories"] *= 2
    dataset = CocoInstances(write(content))
    assert (dataset.category_ids, [type(image.id) for image in dataset.images]) == ([3, 7], [int, int])
    for image in content["images"]:  # LVIS
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{image.pop('file_name')}"
    for field in ("ids", "class_ids"):
        np.testing.assert_array_equal(
            getattr(CocoInstances(write(content))[0].segments, field), getattr(expected, field)
        )
        np.testing.assert_array_equal(getattr(dataset[0].segments, field), getattr(expected, field))


def test_image_of_another_size_or_undecodable_is_refused(content, write, tmp_path):
    dataset = CocoInstances(write(content))
    Image.new("RGB", (4, 2)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png \(image 2\) is 2 x 4 .*instances\.json says 3 x 2"):
        dataset[1]
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cannot decode .*b\.png \(image 2\)"):
        dataset[1]


def test_a_huge_size_in_the_json_costs_no_memory(content, write):
    """Masks of a wrong size would need a terabyte; the image is looked at first."""
    content["images"][0].update(height=1_000_000, width=1_000_000)
    with pytest.raises(ValueError, match=r"a\.png \(image 1\) is 4 x 5 .* says 1000000 x 1000000"):
        CocoInstances(write(content))[0]


def test_labels_drawn_on_the_stored_pixels_are_turned_with_a_sideways_image(content, write, tmp_path):
    """The json has the stored size, 4 x 5; EXIF orientation 6 turns by 90 degrees clockwise, as np.rot90(_, -1)."""
    path = write(content)
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(SQUARE * 255).save(file, "png", exif=exif)
    (tmp_path / "a.png").write_bytes(file.getvalue())
    sample = CocoInstances(path)[0]
    np.testing.assert_array_equal(sample.segments.masks()[0], np.rot90(SQUARE, -1))
    np.testing.assert_array_equal(np.asarray(sample.image)[..., 0] > 0, np.rot90(SQUARE, -1) > 0)


@pytest.fixture
def roboflow(content):
    """As Roboflow exports: category 0 is the project, and the supercategory of all others."""
    parent = {"id": 0, "name": "project", "supercategory": "none"}
    content["categories"] = [parent, *({**entry, "supercategory": "project"} for entry in content["categories"])]
    return content


def test_a_category_that_only_groups_is_dropped(roboflow, write):
    dataset = CocoInstances(write(roboflow), drop_groups=True)
    assert (dataset.category_ids, dataset.id2label) == ([3, 7], {0: "three", 1: "seven"})
    assert dataset.format == "roboflow-coco"
    np.testing.assert_array_equal(dataset[0].segments.class_ids, [1, 0])
    assert CocoInstances(write(roboflow)).category_ids == [0, 3, 7]


def test_a_class_of_the_projects_name_is_kept(roboflow, write):
    """Roboflow's export of one class that is called as the project: both have the same name."""
    roboflow["categories"][1]["name"] = "project"
    assert CocoInstances(write(roboflow), drop_groups=True).category_ids == [3, 7]


def test_categories_without_groups_are_all_kept(content, write):
    for entry in content["categories"]:
        entry["supercategory"] = "none"
    assert CocoInstances(write(content), drop_groups=True).category_ids == [3, 7]


def test_an_annotation_of_a_dropped_category_is_refused(roboflow, write):
    roboflow["annotations"][1]["category_id"] = 0
    with pytest.raises(ValueError, match='annotation 11: category_id 0 groups .* format="coco-instance"'):
        CocoInstances(write(roboflow), drop_groups=True)


def test_opening_takes_less_memory_than_twice_the_json(tmp_path, monkeypatch):
    """Parsed as a whole, this json takes five times the memory of its text."""
    monkeypatch.setattr("m2f.data.json_entries._BLOCK", 1 << 14)
    polygon = [[round(i * 1.01, 2) for i in range(100)]]
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "segmentation": polygon, "bbox": [0.5] * 4, "area": 1.5}
        for i in range(800)
    ]
    image = {"id": 1, "file_name": "a.png", "height": 100, "width": 100}
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    tracemalloc.start()
    try:
        reader = CocoInstances(tmp_path / "train.json")
        assert tracemalloc.get_traced_memory()[1] < 2 * (tmp_path / "train.json").stat().st_size
    finally:
        tracemalloc.stop()
    assert len(reader[0].segments.class_ids) == 800
