"""Predictions for metrics are what `Segmenter` finds with the same settings."""

import numpy as np
import pytest
from object_reader import Thing, draw, object_reader
from pycocotools import mask as coco_mask

from m2f.inference.segmenter import Segmenter
from m2f.validation.tiled_predictor import TiledPredictor

SIZE = (160, 208)
SCENE = [
    Thing(1, 2, 0.9, 0, 0, 160, 208),
    Thing(2, 0, 0.8, 40, 40, 120, 104),
    Thing(3, 0, 0.7, 40, 104, 120, 180),
    Thing(4, 1, 0.3, 0, 0, 12, 20),
]
TASKS = ["panoptic", "instance", "semantic"]


def predictor(model, **settings) -> TiledPredictor:
    settings = {"threshold": 0.0, "max_detections": 100, "tile": 96, "tile_overlap": 32, "batch_size": 4, **settings}
    return TiledPredictor(model, model.processor, TASKS, **settings)


@pytest.mark.parametrize("tile", [96, 300])
def test_all_tasks_from_one_pass_equal_the_segmenters(tile):
    model, image = object_reader("panoptic"), draw(SIZE, SCENE)
    found = predictor(model, tile=tile)(image)
    passes = len(model.shapes)
    settings = {"tile": tile, "tile_overlap": 32, "batch_size": 4}
    instance, panoptic, semantic = (
        Segmenter(model, model.processor, task, **settings, **({"threshold": 0.0} if task == "instance" else {}))(
            image
        )
        for task in ("instance", "panoptic", "semantic")
    )
    assert len(model.shapes) == 4 * passes  # each of the three took as many
    np.testing.assert_array_equal(
        coco_mask.decode(found["instance"]["segmentation"]), instance.masks.transpose(1, 2, 0)
    )
    infos = found["instance"]["segments_info"]
    assert [(info["label_id"], info["score"]) for info in infos] == [(s.label_id, s.score) for s in instance.segments]
    np.testing.assert_array_equal(found["panoptic"]["segmentation"], panoptic.id_map)
    infos = found["panoptic"]["segments_info"]
    assert [(info["id"], info["label_id"]) for info in infos] == [(s.id, s.label_id) for s in panoptic.segments]
    np.testing.assert_array_equal(found["semantic"], semantic.label_map)


def test_limits():
    """Three things, of which one has a score below 0.5."""
    model, image = object_reader("panoptic"), draw(SIZE, SCENE)
    scores = [info["score"] for info in predictor(model)(image)["instance"]["segments_info"]]
    assert len(scores) >= 3 and scores == sorted(scores, reverse=True)
    best = predictor(model, max_detections=2)(image)["instance"]
    assert [info["score"] for info in best["segments_info"]] == scores[:2] and len(best["segmentation"]) == 2
    sure = predictor(model, threshold=0.5)(image)["instance"]["segments_info"]
    assert [info["score"] for info in sure] == [score for score in scores if score >= 0.5] and len(sure) == 2
