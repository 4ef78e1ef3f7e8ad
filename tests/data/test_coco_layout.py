"""Which json files of a folder are datasets, and of which format."""

import json

import pytest
from small_datasets import INSTANCE, PANOPTIC, coco, make_coco_instance, save

from m2f.data.coco_layout import coco_files, coco_format
from m2f.data.dataset_formats import list_splits, open_dataset


def test_files_of_coco_that_are_not_instances_are_left_out(tmp_path):
    make_coco_instance(tmp_path)
    for name in ("person_keypoints_train.json", "captions_train.json", "image_info_train.json"):
        (tmp_path / name).write_text(coco([INSTANCE]))
    (tmp_path / "captions.json").write_text('{"annotations": [{"caption": "a cat"}]}')
    assert list_splits(tmp_path) == ["train", "val"]
    assert len(open_dataset(tmp_path)) == 1


def test_the_format_of_a_json_is_found_far_into_it(tmp_path):
    """The key lies across the border of two blocks of 1 MB; a description that speaks of segmentation is none."""
    (tmp_path / "x.json").write_text(coco([INSTANCE]))
    save(tmp_path / "a.png")
    text = '{"info": "segmentation", "pad": "%s", ' + coco([PANOPTIC])[1:]
    place = text.index('"segments_info"')
    for shift in (-20, -8, -1, 0, 5):
        (tmp_path / "x.json").write_text(text % (" " * ((1 << 20) - place + shift)))
        assert coco_format(tmp_path / "x.json") == "coco-panoptic"


def test_a_json_without_annotations_is_of_instances(tmp_path):
    (tmp_path / "test.json").write_text(coco([]))
    save(tmp_path / "a.png")
    dataset = open_dataset(tmp_path / "test.json")
    assert (dataset.format, dataset.split, len(dataset[0].segments.class_ids)) == ("coco-instance", "test", 0)


@pytest.mark.parametrize(
    "files",
    [
        ("train/annotations.json", "val/annotations.json"),
        ("train/labels.json", "val/labels.json"),  # FiftyOne
        ("train/_annotations.json", "val/x.JSON"),
        ("train/annotations/instances.json", "val/annotations/instances.json"),
        ("instances_train.JSON", "instances_val.Json"),
        ("Annotations/train.json", "Annotations/val.json"),
    ],
)
def test_a_file_of_each_split(tmp_path, files):
    for name, split in zip(files, ("train", "val"), strict=True):
        save(tmp_path / split / "data" / "a.png")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(coco([INSTANCE]))
    assert list_splits(tmp_path) == ["train", "val"]
    for name, split in zip(files, ("train", "val"), strict=True):
        for path in (tmp_path, tmp_path / name):
            dataset = open_dataset(path, split)
            assert (dataset.split, dataset.format) == (split, "coco-instance")
            assert dataset.image_path(0) == tmp_path / split / "data" / "a.png"


def test_a_stray_json_is_no_split(tmp_path):
    """Predictions of COCO's form, the file of one image of Segment Anything, and Datumaro's."""
    make_coco_instance(tmp_path)
    prediction = {**INSTANCE, "score": 0.5}
    one_image = {"image": {"image_id": 1, "file_name": "a.png"}, "annotations": [INSTANCE]}
    datumaro = {"info": {}, "categories": {"label": {}}, "items": [{"id": "a", "annotations": []}]}
    for number, content in enumerate(([prediction], [], one_image, datumaro)):
        (tmp_path / f"stray{number}.json").write_text(json.dumps(content, indent=1))
        (tmp_path / "train" / f"stray{number}.json").write_text("\ufeff \n" + json.dumps(content))
    assert list_splits(tmp_path) == ["train", "val"]
    assert len(open_dataset(tmp_path)) == 1


def test_one_json_for_each_image_is_not_searched(tmp_path):
    for number in range(21):
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "train" / f"{number}.json").write_text(coco([INSTANCE]))
    assert coco_files(tmp_path) == {}
