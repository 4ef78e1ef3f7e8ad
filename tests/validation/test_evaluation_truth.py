import json

import numpy as np
from evaluation_data import CROWDED, write_instances, write_panoptic
from fake_reader import ALL, LEFT, RIGHT, FakeReader, sample
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from m2f.data.coco_instances import CocoInstances
from m2f.data.coco_panoptic import CocoPanoptic
from m2f.data.dataset_formats import open_dataset
from m2f.validation.evaluation_truth import truth_of


def test_labels_of_a_sample_are_the_truth_where_no_file_says_more():
    """Stuff (class 1) is background for instances; ignored pixels stay."""
    segments = sample("a", [{0: LEFT, 1: RIGHT}, {-2: (slice(0, 1), slice(0, 1))}], [0, 1])
    dataset = FakeReader([segments], thing_label_ids=[0])
    truth = truth_of(dataset)
    assert truth.panoptic(0, segments) is segments.segments is truth.semantic(0, segments)
    target = truth.instance(0, segments)
    assert (target.ids[0][LEFT] == 0).all() and (target.ids[0][RIGHT] == -1).all() and target.ids[1, 0, 0] == -2
    assert truth.image_id(3) == 3
    assert (truth.instance(0, sample("b", [{0: ALL}], [1])).ids == -1).all()


def test_a_coco_json_knows_crowds_and_areas(tmp_path):
    dataset = open_dataset(write_instances(tmp_path))
    truth = truth_of(dataset)
    assert truth.image_id(1) == 99
    target = truth.instance(CROWDED, dataset[CROWDED])
    entries = json.loads((tmp_path / "instances_val.json").read_text())["annotations"]
    entries = [entry for entry in entries if entry["image_id"] == 98]
    assert target.crowd.tolist() == [bool(entry["iscrowd"]) for entry in entries] and any(target.crowd)
    assert target.areas.tolist() == [entry["area"] for entry in entries]  # not those of the masks
    assert [dataset.category_ids[label] for label in target.class_ids] == [e["category_id"] for e in entries]


def test_classes_of_a_json_with_a_category_that_groups_others(tmp_path):
    """As Roboflow exports it: category 0 has no class, so that labels and categories are shifted by one."""
    path = write_instances(tmp_path)
    content = json.loads(path.read_text())
    content["categories"] = [{**entry, "supercategory": "colours"} for entry in content["categories"]]
    content["categories"].append({"id": 0, "name": "colours", "supercategory": "none"})
    path.write_text(json.dumps(content))
    dataset = CocoInstances(path, drop_groups=True)
    for index in range(len(dataset)):
        true = truth_of(dataset).instance(index, dataset[index])
        single = true.class_ids[~true.crowd].tolist()
        assert single == dataset[index].segments.class_ids.tolist()


def test_a_panoptic_json_knows_the_classes_of_crowds(tmp_path):
    dataset = open_dataset(write_panoptic(tmp_path))
    truth, crowded = truth_of(dataset), dataset[CROWDED]
    infos = truth.panoptic(CROWDED, crowded)["segments_info"]
    assert [info["iscrowd"] for info in infos].count(1) == 1 and truth.image_id(1) == 99
    red = crowd_pixels(dataset, CROWDED)
    instances, semantic = truth.instance(CROWDED, crowded), truth.semantic(CROWDED, crowded)
    # Blue is stuff; the crowd is one of red, and nothing is ignored.
    assert set(instances.class_ids.tolist()) <= {0, 1} and instances.ignored is None
    assert np.array_equal(coco_mask.decode(instances.rles[instances.crowd.tolist().index(True)]), red)
    (index,) = np.unique(semantic.ids[0][red == 1])
    assert semantic.class_ids[index] == 0
    assert (crowded.segments.ids[0][red == 1] == -2).all()  # the reader has lost it
    void = truth.panoptic(CROWDED, crowded)["segmentation"] == 0
    assert (semantic.ids[0][void] == -2).all() and void.any()


def crowd_pixels(dataset, index) -> np.ndarray:
    """(H, W) of the crowd segment, from the json's id and the PNG's values."""
    target = truth_of(dataset).panoptic(index, dataset[index])
    (crowd,) = [info["id"] for info in target["segments_info"] if info["iscrowd"]]
    return (target["segmentation"] == crowd).astype(np.uint8)


def test_a_panoptic_json_is_not_read_again(tmp_path):
    path = write_panoptic(tmp_path)
    dataset = CocoPanoptic(path)
    entries = {entry["image_id"]: entry["segments_info"] for entry in json.loads(path.read_text())["annotations"]}
    path.unlink()
    truth = truth_of(dataset)
    for index in range(len(dataset)):
        infos = truth.panoptic(index, dataset[index])["segments_info"]
        wanted = [
            (entry["id"], dataset.category_ids.index(entry["category_id"]), entry.get("iscrowd", 0))
            for entry in entries[truth.image_id(index)]
        ]
        assert sorted((info["id"], info["label_id"], info["iscrowd"]) for info in infos) == sorted(wanted)


def test_crowds_that_are_objects_are_objects_of_the_truth_too(tmp_path):
    """As pycocotools' reader gives them with all flags at 0."""
    path = write_instances(tmp_path / "instances")
    dataset = CocoInstances(path, crowd="object")
    target = truth_of(dataset).instance(CROWDED, dataset[CROWDED])
    truth = COCO(str(path))
    entries = truth.loadAnns(truth.getAnnIds(98))
    assert not target.crowd.any() and len(target.rles) == len(entries)
    for rle, entry in zip(target.rles, entries, strict=True):
        assert np.array_equal(coco_mask.decode(rle), truth.annToMask(entry))
    dataset = CocoPanoptic(write_panoptic(tmp_path / "panoptic"), crowd="object")
    infos = truth_of(dataset).panoptic(CROWDED, dataset[CROWDED])["segments_info"]
    assert [info["iscrowd"] for info in infos] == [0] * len(infos)
    assert not truth_of(dataset).instance(CROWDED, dataset[CROWDED]).crowd.any()


def test_what_the_reader_leaves_out_is_no_truth(tmp_path):
    path = write_instances(tmp_path)
    content = json.loads(path.read_text())
    entry, count = content["annotations"][0], len(content["annotations"])
    stray = [{**entry, "id": 900, "segmentation": [[0, 0, 1, 1]]}, {**entry, "id": 901, "image_id": 12345}]
    content["annotations"] = stray + content["annotations"]
    path.write_text(json.dumps(content))
    dataset = CocoInstances(path)
    targets = [truth_of(dataset).instance(index, dataset[index]) for index in range(len(dataset))]
    assert sum(len(target.rles) for target in targets) == count
