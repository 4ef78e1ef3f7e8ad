"""Semantic IoU against sets of pixels, and the conventions on cases whose numbers follow from them."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2f.data.segment_map import SegmentMap
from m2f.evaluation.semantic_iou import SemanticIoU

LABELS = {0: "road", 1: "sky", 2: "tree", 3: "pole"}


def directly(images: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """From sets of (image, row, column) for each class; pixels that are 255 in the truth are in none."""
    true, predicted = {}, {}
    for label in LABELS:
        true[label], predicted[label] = set(), set()
        for number, (prediction, truth) in enumerate(images):
            for row, column in np.ndindex(truth.shape):
                if truth[row, column] != 255:
                    true[label] |= {(number, row, column)} if truth[row, column] == label else set()
                    predicted[label] |= {(number, row, column)} if prediction[row, column] == label else set()
    iou = {k: len(true[k] & predicted[k]) / len(true[k] | predicted[k]) for k in LABELS if true[k] | predicted[k]}
    accuracy = {k: len(true[k] & predicted[k]) / len(true[k]) for k in LABELS if true[k]}
    pixels = sum(map(len, true.values()))
    mean = {"mIoU": iou, "mACC": accuracy}
    results = {name: sum(values.values()) / len(values) if values else math.nan for name, values in mean.items()}
    results["fwIoU"] = sum(iou[k] * len(true[k]) for k in accuracy) / pixels if pixels else math.nan
    results["pACC"] = sum(len(true[k] & predicted[k]) for k in LABELS) / pixels if pixels else math.nan
    return results


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 3), classes=st.integers(1, 4))
def test_equals_sets_of_pixels(seed, count, classes):
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        shape = generator.integers(1, 8, 2)
        truth = generator.choice([*range(classes), 255], shape)
        images.append((np.where(generator.random(shape) < 0.6, truth, generator.integers(0, classes, shape)), truth))
    images = [(np.where(prediction == 255, 0, prediction), truth) for prediction, truth in images]
    metric = SemanticIoU(LABELS)
    for prediction, truth in images:
        metric.process([torch.from_numpy(prediction)], [truth.astype(np.uint8)])
    assert metric.evaluate() == pytest.approx(directly(images), abs=1e-9, nan_ok=True)


def test_a_class_that_is_nowhere_has_no_iou_and_one_that_is_only_predicted_has_zero():
    """evaluate's mean_iou has the same convention: intersection 0 over union 1. detectron2 leaves class 1 out: 2/3."""
    metric = SemanticIoU(LABELS)
    metric.process([np.array([[0, 0, 1]])], [np.array([[0, 0, 0]])])
    results, table = metric.evaluate(), metric.per_class_table()
    assert results["mIoU"] == pytest.approx((2 / 3 + 0) / 2)
    assert results["fwIoU"] == results["mACC"] == results["pACC"] == pytest.approx(2 / 3)
    assert [row["name"] for row in table] == list(LABELS.values())
    assert table[1]["IoU"] == 0 and math.isnan(table[1]["ACC"]) and math.isnan(table[2]["IoU"])
    assert [row["true_pixels"] for row in table] == [3, 0, 0, 0]
    assert [row["predicted_pixels"] for row in table] == [2, 1, 0, 0]


def test_segment_maps_tell_ignored_pixels_from_pixels_of_no_class():
    """Two segments of class 2; predicted 2 everywhere. -2 does not count; -1 is wrong, so that the union is 4 pixels,
    and no part of the accuracy."""
    target = SegmentMap(np.array([[[0, 1, -2, -1]], [[-1, 1, -1, 2]]], np.int32), np.array([2, 2, 2]))
    metric = SemanticIoU(LABELS)
    metric.process([SimpleNamespace(segmentation=torch.tensor([[2, 2, 2, 2]]))], [target])
    assert metric.evaluate() == {"mIoU": 1.0, "fwIoU": 1.0, "mACC": 1.0, "pACC": 1.0}
    metric.process([torch.tensor([[2, 2]])], [SegmentMap(np.array([[[-1, 0]]], np.int32), np.array([2]))])
    assert metric.evaluate() == {"mIoU": 0.8, "fwIoU": 0.8, "mACC": 1.0, "pACC": 1.0}


def test_pixels_without_a_prediction_are_missed():
    metric = SemanticIoU(LABELS)
    metric.process([np.array([[0, -1]])], [np.array([[0, 0]])])
    assert metric.evaluate() == {"mIoU": 0.5, "fwIoU": 0.5, "mACC": 0.5, "pACC": 0.5}


def test_another_ignore_index_or_none():
    metric = SemanticIoU(LABELS, ignore_index=0)
    metric.process([np.array([[1, 1]])], [np.array([[0, 1]])])
    assert metric.evaluate()["mIoU"] == 1.0
    metric = SemanticIoU(LABELS, ignore_index=None)
    with pytest.raises(ValueError, match="the target holds class 255, but id2label has 4"):
        metric.process([np.array([[1, 1]])], [np.array([[255, 1]])])


def test_nothing_but_ignored_pixels_gives_nan():
    metric = SemanticIoU(LABELS)
    metric.process([np.array([[1]])], [np.array([[255]])])
    assert all(math.isnan(value) for value in metric.evaluate().values())


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([[4]], [[0]], "the prediction holds class 4, but id2label has 4"),
        ([[0]], [[-1]], "the target holds -1, which is no class and not the ignore_index 255"),
        ([[0, 0]], [[0]], r"the prediction is \(1, 2\), but the target \(1, 1\)"),
        ([0], [[0]], r"the prediction is of shape \(1,\); an \(H, W\) map"),
        ([["a"]], [[0]], "of type <U1; integers are needed"),
    ],
)
def test_what_does_not_fit_is_refused(prediction, target, message):
    with pytest.raises(ValueError, match=message):
        SemanticIoU(LABELS).process([np.array(prediction)], [np.array(target)])


def test_overlapping_segments_of_different_classes_are_refused():
    target = SegmentMap(np.array([[[0]], [[1]]], np.int32), np.array([1, 2]))
    with pytest.raises(ValueError, match="segments overlap on 1 pixels"):
        SemanticIoU(LABELS).process([np.array([[0]])], [target])
