"""COCO AP: against COCOeval's own summary, and on cases whose numbers follow from the definition."""

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from m2f.evaluation.coco_average_precision import CocoAveragePrecision

NUCLEI_VAL = Path(__file__).parents[2] / "examples" / "nuclei" / "val.json"


def encode(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def strip(width: int) -> dict:
    """The first `width` columns of an image of 10 x 20 pixels."""
    mask = np.zeros((10, 20))
    mask[:, :width] = 1
    return encode(mask)


@pytest.fixture
def truth(tmp_path) -> Path:
    """One image with one object of category 4, 10 columns wide; categories 2 and 4; a second, empty image."""
    annotation = {"id": 1, "image_id": 1, "category_id": 4, "segmentation": strip(10)}
    annotation.update(area=100, bbox=[0, 0, 10, 10], iscrowd=0)
    content = {
        "images": [{"id": i, "height": 10, "width": 20, "file_name": f"{i}.png"} for i in (1, 2)],
        "annotations": [annotation],
        "categories": [{"id": 4, "name": "four"}, {"id": 2, "name": "two"}],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    return path


def test_label_ids_become_category_ids_in_the_official_results_format(truth):
    metric = CocoAveragePrecision(truth)
    metric.process(1, [strip(10)], [{"label_id": 1, "score": 0.5, "id": 0, "was_fused": False}])
    expected = {"image_id": 1, "category_id": 4, "segmentation": strip(10), "score": 0.5}
    assert metric.predictions == [expected]
    metric.evaluate()
    assert metric.predictions == [expected]  # COCO.loadRes would have added fields


def test_intersection_over_union_of_0_625_is_a_hit_at_three_of_ten_thresholds(truth):
    """16 columns predicted, 10 true: IoU 10/16 = 0.625, a hit at 0.50, 0.55 and 0.60."""
    metric = CocoAveragePrecision(truth)
    metric.process(1, [strip(16)], [{"label_id": 1, "score": 0.9}])
    result = metric.evaluate()
    assert result["AP"] == pytest.approx(0.3) and result["AR100"] == pytest.approx(0.3)
    assert (result["AP50"], result["AP75"]) == (pytest.approx(1), 0)
    assert result["APs"] == pytest.approx(0.3)  # the object has 100 pixels, below 32^2
    assert math.isnan(result["APm"]) and math.isnan(result["APl"])


def test_a_better_scored_false_positive_halves_the_precision(truth):
    """The hit comes second: precision 1/2 at every recall. The false positive is on the image without objects."""
    metric = CocoAveragePrecision(truth)
    metric.process(2, [strip(10)], [{"label_id": 1, "score": 0.9}])
    metric.process(1, [strip(10)], [{"label_id": 1, "score": 0.8}])
    assert metric.evaluate()["AP"] == pytest.approx(0.5)


def test_without_a_prediction_the_precision_is_zero_and_reset_gets_there(truth):
    metric = CocoAveragePrecision(truth)
    assert metric.evaluate()["AP"] == 0.0
    metric.process(1, [strip(10)], [{"label_id": 1, "score": 1.0}])
    assert metric.evaluate()["AP"] == pytest.approx(1.0)
    metric.reset()
    assert metric.predictions == [] and metric.evaluate()["AP"] == 0.0
    metric.process(1, [], [])


def test_equals_the_summary_of_cocoeval():
    """Perturbed ground truth of the bundled images as predictions; COCOeval.summarize gives the expected values."""
    generator = np.random.default_rng(0)
    metric = CocoAveragePrecision(NUCLEI_VAL)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(NUCLEI_VAL))
    for image_id in truth.getImgIds():
        annotations = truth.loadAnns(truth.getAnnIds(image_id))
        masks = [np.roll(truth.annToMask(a), generator.integers(-3, 4, 2), (0, 1)) for a in annotations]
        infos = [{"label_id": 0, "score": score} for score in generator.random(len(masks))]
        metric.process(image_id, [encode(mask) for mask in masks], infos)
    result = metric.evaluate()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes([dict(p) for p in metric.predictions]), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = dict(zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), evaluation.stats[:6], strict=True))
    names["AR100"] = evaluation.stats[8]
    assert 0.1 < names["AP"] < 0.9
    for name, expected in names.items():
        if expected == -1:
            assert math.isnan(result[name])
        else:
            assert result[name] == pytest.approx(expected, abs=1e-9)


def test_max_detections_keeps_the_best(truth):
    metric = CocoAveragePrecision(truth, max_detections=(1,))
    metric.process(1, [strip(10), strip(2)], [{"label_id": 1, "score": s} for s in (0.1, 0.2)])
    assert metric.evaluate()["AP"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((9, [], []), "image_id 9 is not in .*truth.json, which has 2 images"),
        ((1, [strip(1)], []), "image 1: 1 masks, 0 labels"),
        ((1, [strip(1)], [{"label_id": 2, "score": 1.0}]), "image 1: label_id 2 is not among the 2 classes"),
        ((1, [encode(np.ones((3, 3)))], [{"label_id": 0, "score": 1.0}]), r"is \(3, 3\), but the target \(10, 20\)"),
    ],
)
def test_predictions_that_do_not_fit_are_refused_and_not_kept(truth, arguments, message):
    metric = CocoAveragePrecision(truth)
    with pytest.raises(ValueError, match=message):
        metric.process(*arguments)
    assert metric.predictions == []


def test_an_image_counts_once(truth):
    """As when a data loader fills its last batch."""
    metric = CocoAveragePrecision(truth)
    for width in (10, 3):
        metric.process(1, [strip(width)], [{"label_id": 1, "score": 1.0}])
    assert len(metric.predictions) == 1 and metric.evaluate()["AP"] == pytest.approx(1.0)


def test_images_that_nobody_processed_count_after_merging(truth):
    """The object of image 1 is missed unless a process has the image; that another one lacks it changes nothing."""
    first, second = CocoAveragePrecision(truth), CocoAveragePrecision(truth)
    first.process(2, [], [])
    assert first.evaluate()["AP"] == 0.0
    second.process(1, [strip(10)], [{"label_id": 1, "score": 1.0}])
    first.merge([second.state()])
    assert first.evaluate()["AP"] == pytest.approx(1.0)


def test_prints_nothing(truth, capsys):
    metric = CocoAveragePrecision(truth)
    metric.process(1, [strip(10)], [{"label_id": 1, "score": 1.0}])
    metric.evaluate()
    assert capsys.readouterr().out == ""
