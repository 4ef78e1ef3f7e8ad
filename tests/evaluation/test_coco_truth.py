"""COCO's files as targets; average precision against a file is in test_coco_average_precision.py."""

import json

import numpy as np
import pytest
from evaluation_cases import NUCLEI_VAL, encode
from pycocotools import mask as coco_mask

from m2f.evaluation.coco_truth import CocoTruth, panoptic_target
from m2f.evaluation.panoptic_quality import PanopticQuality


@pytest.fixture
def path(tmp_path):
    content = {
        "images": [{"id": 7, "height": 4, "width": 6}, {"id": 8, "height": 2, "width": 2}],
        "categories": [{"id": 9, "name": "nine"}, {"id": 3, "name": "three"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 9, "segmentation": encode(np.ones((4, 6))), "area": 20.5},
            {"id": 2, "image_id": 7, "category_id": 3, "segmentation": encode(np.eye(4, 6)), "iscrowd": 1},
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return tmp_path / "truth.json"


def test_targets_have_the_files_areas_and_crowds(path):
    truth = CocoTruth(path)
    assert (truth.category_ids, truth.id2label, truth.image_ids) == ([3, 9], {0: "three", 1: "nine"}, [7, 8])
    target = truth.target(7)
    assert target.class_ids.tolist() == [1, 0] and target.crowd.tolist() == [False, True]
    assert target.areas.tolist() == [20.5, 4.0]  # the file's, and the pixels where it has none
    assert [coco_mask.area(rle) for rle in target.rles] == [24, 4] and target.size == (4, 6)
    assert truth.target(8).rles == []


def test_results_are_in_the_official_format(path):
    masks = np.ones((1, 4, 6), bool)
    prediction = {"segmentation": masks, "segments_info": [{"label_id": 1, "score": 0.5}]}
    (entry,) = CocoTruth(path).results(7, prediction)
    assert entry == {"image_id": 7, "category_id": 9, "segmentation": encode(masks[0]), "score": 0.5}
    json.dumps(entry)


def test_every_image_of_the_bundled_file_is_read():
    truth = CocoTruth(NUCLEI_VAL)
    count = len(json.loads(NUCLEI_VAL.read_text())["annotations"])
    assert sum(len(truth.target(image_id).rles) for image_id in truth.image_ids) == count > 0


def test_what_does_not_fit_is_refused(path):
    truth = CocoTruth(path)
    with pytest.raises(ValueError, match="image_id 5 is not in .*truth.json, which has 2 images"):
        truth.target(5)
    with pytest.raises(ValueError, match="label_id 2 has no category"):
        truth.results(7, {"masks": np.ones((1, 4, 6)), "labels": [2], "scores": [1.0]})
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 4
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"category_id 4 is not among \[3, 9\]"):
        CocoTruth(path).target(7)
    path.write_text('{"images": [], "annotations": []}')
    with pytest.raises(ValueError, match="no list 'categories'"):
        CocoTruth(path)


def test_panoptic_pictures_become_targets_with_crowds():
    """Red + 256 green + 65536 blue: ids 1, 256 and 65536; void is black."""
    colours = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]], np.uint8)
    infos = [
        {"id": 1, "category_id": 30, "iscrowd": 0},
        {"id": 256, "category_id": 20, "iscrowd": 1},
        {"id": 65536, "category_id": 20},
    ]
    target = panoptic_target(colours, infos, category_ids=[20, 30])
    assert target["segmentation"].tolist() == [[1, 256, 65536, 0]]
    assert [(info["label_id"], info["iscrowd"]) for info in target["segments_info"]] == [(1, 0), (0, 1), (0, 0)]
    metric = PanopticQuality({0: "a", 1: "b"})
    found = [{"id": 1, "label_id": 1}, {"id": 2, "label_id": 0}]
    metric.process([{"segmentation": np.array([[1, 0, 2, 0]]), "segments_info": found}], [target])
    assert metric.evaluate()["PQ"] == 1.0
    with pytest.raises(ValueError, match=r"category_id 30 is not among \[20\]"):
        panoptic_target(colours, infos, category_ids=[20])
    with pytest.raises(ValueError, match=r"of shape \(1, 4\); \(H, W, 3\)"):
        panoptic_target(colours[..., 0], infos, category_ids=[20, 30])
