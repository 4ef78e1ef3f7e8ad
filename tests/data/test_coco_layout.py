"""Which json files of a folder are datasets, and of which format."""

from small_datasets import INSTANCE, PANOPTIC, coco, make_coco_instance, save

from m2f.data.coco_layout import coco_format
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
