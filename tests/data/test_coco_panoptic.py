"""The COCO panoptic reader, on files written here as the format defines them: id = R + 256 G + 65536 B."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2f.data.coco_panoptic import CocoPanoptic
from m2f.image_processing.label_values import IGNORED, NOTHING

# Ids of one, two and three bytes; 0 is void.
IDS = np.array([[5, 5, 0, 70_000], [5, 900, 900, 70_000], [16_777_215, 900, 900, 0]])
SEGMENTS = [(900, 7, 0), (5, 3, 0), (70_000, 3, 1), (16_777_215, 9, 0)]  # id, category, crowd


def write_png(path: Path, ids: np.ndarray):
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(colours.astype(np.uint8)).save(path)


@pytest.fixture
def content():
    infos = [{"id": number, "category_id": category, "iscrowd": crowd} for number, category, crowd in SEGMENTS]
    return {
        "images": [{"id": 4, "file_name": "a.jpg", "height": 3, "width": 4}],
        "annotations": [{"image_id": 4, "file_name": "a.png", "segments_info": infos}],
        "categories": [
            {"id": 9, "name": "sky", "isthing": 0},
            {"id": 3, "name": "cat", "isthing": 1},
            {"id": 7, "name": "dog"},
        ],
    }


@pytest.fixture
def write(tmp_path):
    """Writes the files and gives the json's path; the PNG is where COCO has it."""

    def write_files(content, ids=IDS) -> Path:
        path = tmp_path / "panoptic_val2017.json"
        path.write_text(json.dumps(content))
        write_png(tmp_path / "panoptic_val2017" / "a.png", ids)
        Image.new("RGB", (4, 3), "red").save(tmp_path / "a.jpg")
        return path

    return write_files


def test_a_sample_has_the_segments_in_their_order(content, write):
    sample = CocoPanoptic(write(content))[0]
    np.testing.assert_array_equal(sample.segments.masks(), [IDS == 900, IDS == 5, IDS == 16_777_215])
    # Categories 3, 7 and 9 are classes 0, 1 and 2.
    np.testing.assert_array_equal(sample.segments.class_ids, [1, 0, 2])
    np.testing.assert_array_equal(sample.segments.ignored(), (IDS == 0) | (IDS == 70_000))
    assert len(sample.segments.ids) == 1
    assert (sample.image.mode, sample.image.size, sample.name) == ("RGB", (4, 3), "a.jpg")


def test_void_and_crowd_may_be_background(content, write):
    ids = CocoPanoptic(write(content), ignore_unknown=False)[0].segments.ids
    assert IGNORED not in ids
    np.testing.assert_array_equal(ids[0] == NOTHING, (IDS == 0) | (IDS == 70_000))


def test_what_is_told_without_decoding(content, write, tmp_path):
    dataset = CocoPanoptic(write(content))
    assert dataset.id2label == {0: "cat", 1: "dog", 2: "sky"}
    assert dataset.thing_label_ids == [0, 1]  # a category that does not tell is a thing
    assert (dataset.task, dataset.format, dataset.split) == ("panoptic", "coco-panoptic", "val")
    assert (len(dataset), dataset.name_of(0), dataset.image_path(0)) == (1, "a.jpg", tmp_path / "a.jpg")
    assert (dataset.category_ids, dataset.images[0].id) == ([3, 7, 9], 4)


def test_folders_are_found_or_given(content, write, tmp_path):
    path = write(content)
    (tmp_path / "panoptic_val2017").rename(tmp_path / "segments")
    assert CocoPanoptic(path).segments_folder == tmp_path / "segments"
    (tmp_path / "images").mkdir()
    (tmp_path / "a.jpg").rename(tmp_path / "images" / "a.jpg")
    for folders in ((None, None), (tmp_path / "images", tmp_path / "segments")):
        np.testing.assert_array_equal(CocoPanoptic(path, *folders)[0].segments.areas(), [4, 3, 1])
    (tmp_path / "segments" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="such as a.png; give segments_folder"):
        CocoPanoptic(path)


def test_an_image_without_segments_is_all_void(content, write):
    content["annotations"][0]["segments_info"] = []
    segments = CocoPanoptic(write(content, np.zeros((3, 4), int)))[0].segments
    assert (segments.ids == IGNORED).all() and segments.masks().shape == (0, 3, 4)


@pytest.mark.parametrize("number", [0, -1, 1 << 24])
def test_ids_that_no_colour_has_are_refused(content, write, number):
    info(content)["id"] = number
    with pytest.raises(ValueError, match=f"val2017.json, annotation of image 4: segment id {number} is no colour"):
        CocoPanoptic(write(content))


def test_ids_of_json_and_png_must_agree(content, write):
    missing = content["annotations"][0]["segments_info"].pop(0)
    with pytest.raises(ValueError, match=r"a\.png holds the ids 900, which its annotation lacks"):
        CocoPanoptic(write(content))[0]
    for crowd in (0, 1):
        content["annotations"][0]["segments_info"] += [missing, {"id": 6, "category_id": 3, "iscrowd": crowd}]
        with pytest.raises(ValueError, match=r"a\.png lacks the ids 6, which its annotation has"):
            CocoPanoptic(write(content))[0]
        del content["annotations"][0]["segments_info"][-2:]


def info(content: dict) -> dict:
    """The entry of segment 5."""
    return content["annotations"][0]["segments_info"][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: info(c).update(category_id=4), "segment 5 has category_id 4, not among the categories"),
        (lambda c: info(c).update(id=900), "'segments_info': id 900 appears more than once"),
        (lambda c: info(c).pop("category_id"), "id 5 has no 'category_id'"),
        (lambda c: info(c).update(id=True), "'id' is True; an integer is needed"),
        (
            lambda c: c["annotations"][0].update(image_id=5),
            "annotation of image 5: not among the 1 images; so it is f",
        ),
        (lambda c: c["annotations"].append(c["annotations"][0]), "annotation of image 4: a second one"),
        (lambda c: c["annotations"][0].update(file_name="../x.png"), r"names the file '\.\./x\.png', which is out"),
        (lambda c: c["annotations"][0].pop("segments_info"), "'annotations', number 0 has no 'segments_info'"),
        (lambda c: c["categories"][0].update(isthing=2), "'isthing' is 2; 0 or 1 is needed"),
        (lambda c: c.pop("categories"), "has no list 'categories'; a COCO panoptic json has images, categories"),
    ],
)
def test_bad_json_is_refused(content, write, tmp_path, change, message):
    change(content)
    with pytest.raises(ValueError, match=rf"panoptic_val2017\.json.*{message}"):
        CocoPanoptic(write(content), tmp_path)


def test_an_image_without_annotation_is_refused(content, write, tmp_path):
    content["images"].append({"id": 5, "file_name": "b.jpg", "height": 3, "width": 4})
    dataset = CocoPanoptic(write(content))
    Image.new("RGB", (4, 3)).save(tmp_path / "b.jpg")
    with pytest.raises(ValueError, match=r"val2017\.json: image 5 \(b\.jpg\) has no annotation"):
        dataset[1]


def test_sizes_must_agree(content, write, tmp_path):
    dataset = CocoPanoptic(write(content))
    write_png(tmp_path / "panoptic_val2017" / "a.png", IDS[:, :3])
    with pytest.raises(ValueError, match=r"a\.png is 3 x 3 .* says 3 x 4 for image 4"):
        dataset[0]
    Image.new("RGB", (5, 3)).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg \(image 4\) is 3 x 5 .* says 3 x 4"):
        dataset[0]


def test_missing_and_grey_pngs_are_named(content, write, tmp_path):
    dataset = CocoPanoptic(write(content))
    Image.new("L", (4, 3), 5).save(tmp_path / "panoptic_val2017" / "a.png")
    with pytest.raises(ValueError, match=r"panoptic_val2017/a\.png has the channels L"):
        dataset[0]
    (tmp_path / "panoptic_val2017" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such file: .*panoptic_val2017/a\.png"):
        dataset[0]


def test_files_are_found_by_the_names_of_another_machine(content, write, tmp_path):
    content["images"][0]["file_name"] = "C:\\data\\A.jpg"
    content["annotations"][0]["file_name"] = "https://host/masks/a.png"
    dataset = CocoPanoptic(write(content))
    assert dataset.image_path(0) == tmp_path / "a.jpg"
    assert dataset.segments_path(0) == tmp_path / "panoptic_val2017" / "a.png"
    assert dataset[0].segments.areas().tolist() == [4, 3, 1]
    content["images"][0]["file_name"] = "../x.jpg"
    with pytest.raises(ValueError, match=r"val2017\.json, image 4 names the file '\.\./x\.jpg', which is outside"):
        CocoPanoptic(write(content), tmp_path)


def test_images_and_pngs_in_one_folder_three_levels_down(content, write, tmp_path):
    """As Segments.ai exports: the json, and segments/OWNER_DATASET/RELEASE with both."""
    content["annotations"][0]["file_name"] = "a_label_ground-truth_coco-panoptic.png"
    path = write(content)
    folder = tmp_path / "segments" / "me_data" / "v1.0"
    folder.mkdir(parents=True)
    (tmp_path / "a.jpg").rename(folder / "a.jpg")
    (tmp_path / "panoptic_val2017" / "a.png").rename(folder / "a_label_ground-truth_coco-panoptic.png")
    (tmp_path / "panoptic_val2017").rmdir()
    path = path.rename(tmp_path / "export_coco-panoptic_me_data_v1.0.json")
    dataset = CocoPanoptic(path)
    assert dataset.image_folder == dataset.segments_folder == folder
    assert dataset[0].segments.areas().tolist() == [4, 3, 1]


def test_integral_floats_are_integers(content, write):
    """As pandas writes them."""
    expected = CocoPanoptic(write(content))[0].segments.ids
    for info in content["annotations"][0]["segments_info"]:
        info.update({key: float(value) for key, value in info.items()})
    content["annotations"][0]["image_id"] = 4.0
    for entry in content["categories"]:
        entry["id"] = float(entry["id"])
    np.testing.assert_array_equal(CocoPanoptic(write(content))[0].segments.ids, expected)


def test_images_and_annotations_may_have_the_same_names(content, write, tmp_path):
    """Where images are PNG too, "a.png" is in both folders."""
    content["images"][0]["file_name"] = "a.png"
    path = write(content)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "images" / "a.png")
    dataset = CocoPanoptic(path)
    assert dataset.image_folder == tmp_path / "images"
    (tmp_path / "panoptic_val2017").rename(tmp_path / "masks")
    for folders in ((tmp_path / "images", None), (None, tmp_path / "masks")):
        dataset = CocoPanoptic(path, *folders)
        assert (dataset.image_folder, dataset.segments_folder) == (tmp_path / "images", tmp_path / "masks")


def test_an_annotation_of_an_image_that_is_not_listed_is_left_out_and_counted(content, write):
    content["annotations"].append({**content["annotations"][0], "image_id": 5, "file_name": "gone.png"})
    dataset = CocoPanoptic(write(content))
    assert len(dataset[0].segments.class_ids) == 3
    assert dataset.remarks[0] == ("left out", "1 of 2 annotations name an image that is not listed; left out")


def test_crowds_are_counted_and_may_be_objects(content, write):
    """Three of the four segments are single ones, and category 3 has one of these."""
    path = write(content)
    ((kind, text),) = CocoPanoptic(path).remarks
    assert kind == "crowd region" and text.startswith("1 of 4 annotations are crowd regions and take no part; annot")
    dataset = CocoPanoptic(path, crowd="object")
    sample = dataset[0]
    np.testing.assert_array_equal(sample.segments.masks(), [IDS == number for number, _, _ in SEGMENTS])
    assert (sample.segments.ids[0] == IGNORED).sum() == (IDS == 0).sum() and dataset.remarks == []
    with pytest.raises(ValueError, match="crowd must be one of ignore, object, got 1"):
        CocoPanoptic(path, crowd=1)
