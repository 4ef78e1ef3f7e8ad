"""Panoptic quality against a plain implementation of its definition, and on cases whose numbers follow from it."""

import math
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
import torch
from evaluation_cases import perturbed_nuclei, random_partition
from hypothesis import given, settings
from hypothesis import strategies as st

from m2f.data.segment_map import SegmentMap
from m2f.evaluation.panoptic_quality import PanopticQuality

LABELS = {0: "cell", 1: "dog", 2: "sky"}


def directly(images: list[tuple[dict, dict, set]], label: int) -> tuple[float, float, float]:
    """PQ, SQ and RQ of a class, segment by segment as the paper and panopticapi define them.

    Args:
        images: predicted segments and true segments, each {id: (label, set of pixels)}, the true ones with
            (label, pixels, is crowd), and the void pixels.
    """
    iou_sum, hits, false_positives, false_negatives = Fraction(0), 0, 0, 0
    for predicted, true, void in images:
        matched = set()
        found = set()
        for name, (true_label, true_pixels, crowd) in true.items():
            for other, (predicted_label, pixels) in predicted.items():
                if crowd or true_label != label or predicted_label != label:
                    continue
                union = (pixels | true_pixels) - (void & pixels)
                iou = Fraction(len(pixels & true_pixels), max(1, len(union)))
                if iou > Fraction(1, 2):
                    iou_sum, hits = iou_sum + iou, hits + 1
                    matched.add(other)
                    found.add(name)
        for name, (true_label, true_pixels, crowd) in true.items():
            false_negatives += true_label == label and not crowd and name not in found and len(true_pixels) > 0
        allowed = set(void)
        for true_label, true_pixels, crowd in true.values():
            if crowd and true_label == label:
                allowed |= true_pixels
        for other, (predicted_label, pixels) in predicted.items():
            if predicted_label == label and other not in matched:
                false_positives += 2 * len(pixels & allowed) <= len(pixels)
    total = hits + Fraction(false_positives + false_negatives, 2)
    if not total:
        return math.nan, math.nan, math.nan
    return float(iou_sum / total), float(iou_sum / hits) if hits else 0.0, float(hits / total)


def pixels_of(indices: np.ndarray, index: int) -> set:
    return set(map(tuple, np.argwhere(indices == index).tolist()))


def random_image(generator: np.random.Generator) -> tuple[dict, dict, tuple]:
    """A prediction, a target with crowds, and both for `directly`."""
    height, width, count = generator.integers(1, 12), generator.integers(1, 12), generator.integers(1, 6)
    true = random_partition(generator, height, width, count)
    predicted = np.where(generator.random(true.shape) < 0.9, true, random_partition(generator, height, width, count))
    if generator.random() < 0.3:
        predicted = random_partition(generator, height, width, count)
    labels, predicted_labels = generator.integers(0, 3, count), generator.integers(0, 3, count)
    same = generator.random(count) < 0.7
    predicted_labels[same] = labels[same]
    crowd = generator.random(count) < 0.2
    crowd &= [labels[:i][crowd[:i]].tolist().count(labels[i]) == 0 for i in range(count)]  # one of a class, as in COCO
    true, predicted = np.maximum(true, -1), np.maximum(predicted, -1)
    ids = generator.permutation(100)[:count] + 1
    shown = [i for i in range(count) if (predicted == i).any()]
    prediction = {
        "segmentation": np.append(ids, 0)[predicted],
        "segments_info": [{"id": ids[i], "label_id": predicted_labels[i]} for i in shown],
    }
    target = {
        "segmentation": np.append(ids, 0)[true],
        "segments_info": [{"id": ids[i], "label_id": labels[i], "iscrowd": int(crowd[i])} for i in range(count)],
    }
    plain = (
        {i: (predicted_labels[i], pixels_of(predicted, i)) for i in shown},
        {i: (labels[i], pixels_of(true, i), crowd[i]) for i in range(count)},
        pixels_of(true, -1),
    )
    return prediction, target, plain


def assert_equals_directly(metric: PanopticQuality, images: list[tuple], things: list[int]):
    results, table = metric.evaluate(), metric.per_class_table()
    for position, name in enumerate(("PQ", "SQ", "RQ")):
        expected = [directly(images, label)[position] for label in metric.id2label]
        assert [row[name] for row in table] == pytest.approx(expected, abs=1e-9, nan_ok=True)
        stuff = [label for label in metric.id2label if label not in things]
        for suffix, group in (("", list(metric.id2label)), ("_th", things), ("_st", stuff)):
            counted = [expected[label] for label in group if not math.isnan(expected[label])]
            mean = sum(counted) / len(counted) if counted else math.nan
            assert results[name + suffix] == pytest.approx(mean, abs=1e-9, nan_ok=True)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 4))
def test_equals_the_definition_on_random_segments_with_void_and_crowds(seed, count):
    generator = np.random.default_rng(seed)
    images = [random_image(generator) for _ in range(count)]
    metric = PanopticQuality(LABELS, thing_label_ids=[0, 1])
    for number, (prediction, target, _) in enumerate(images):
        metric.process([prediction], [target], [number])
    assert_equals_directly(metric, [plain for _, _, plain in images], things=[0, 1])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_pixels_without_a_segment_are_wrong_and_ignored_ones_void(seed):
    """A SegmentMap tells both apart; in `directly` the former are no void and in no true segment."""
    generator = np.random.default_rng(seed)
    prediction, _, (predicted, _, _) = random_image(generator)
    shape = prediction["segmentation"].shape
    labels = generator.integers(0, 3, 4)
    true = random_partition(generator, *shape, segments=4)
    metric = PanopticQuality(LABELS)
    metric.process([prediction], [SegmentMap(true[None].astype(np.int32), labels)])
    plain = {i: (labels[i], pixels_of(true, i), False) for i in range(4)}
    assert_equals_directly(metric, [(predicted, plain, pixels_of(true, -2))], things=[0, 1, 2])


def test_equals_the_definition_on_nuclei():
    metric, images = PanopticQuality({0: "nucleus"}), []
    for case in islice(perturbed_nuclei(), 3):  # of more the plain implementation takes long
        segmentation, infos = case.painted()
        segments = case.segment_map()
        assert len(segments.ids) == 1  # these nuclei do not overlap
        metric.process([{"segmentation": segmentation, "segments_info": infos}], [segments], [case.image_id])
        predicted = {info["id"]: (0, pixels_of(segmentation, info["id"])) for info in infos}
        true = {i: (0, pixels_of(segments.ids[0], i), False) for i in range(len(case.masks))}
        images.append((predicted, true, set()))
    assert_equals_directly(metric, images, things=[0])
    assert 0.2 < metric.evaluate()["PQ"] < 0.9  # neither nothing nor everything matches


def row_of(*values: int) -> np.ndarray:
    return np.array([values], np.int32)


def quality(predicted: np.ndarray, labels: list[int], true: SegmentMap, **options) -> tuple[dict, list[dict]]:
    metric = PanopticQuality(LABELS, **options)
    infos = [{"id": i + 1, "label_id": label} for i, label in enumerate(labels)]
    metric.process([{"segmentation": torch.from_numpy(predicted), "segments_info": infos}], [true])
    return metric.evaluate(), metric.per_class_table()


def test_an_iou_of_one_half_is_no_match():
    """3 of 4 pixels common would match; 2 of 4 are exactly one half: a false positive and a false negative."""
    true = SegmentMap(row_of(0, 0, 0, 0)[None], np.array([0]))
    _, (row, *_) = quality(row_of(1, 1, 0, 0), [0], true)
    assert (row["PQ"], row["TP"], row["FP"], row["FN"]) == (0.0, 0, 1, 1)
    _, (row, *_) = quality(row_of(1, 1, 1, 0), [0], true)
    assert (row["PQ"], row["SQ"], row["RQ"], row["TP"]) == (0.75, 0.75, 1.0, 1)


def test_void_is_no_part_of_the_union_and_a_segment_mostly_in_it_is_not_wrong():
    """Two pixels true, two void: predicted on all four the IoU is 2 / 2. Of the second prediction 2 of 3 are void."""
    true = SegmentMap(row_of(0, 0, -2, -2, -1)[None], np.array([0]))
    _, (row, *_) = quality(row_of(1, 1, 1, 1, 0), [0], true)
    assert (row["PQ"], row["TP"]) == (1.0, 1)
    _, (row, *_) = quality(row_of(0, 0, 1, 1, 1), [0], true)
    assert (row["TP"], row["FP"], row["FN"]) == (0, 0, 1)
    true = SegmentMap(row_of(0, 0, -1, -1, -1)[None], np.array([0]))
    _, (row, *_) = quality(row_of(0, 0, 1, 1, 1), [0], true)
    assert (row["TP"], row["FP"], row["FN"]) == (0, 1, 1)


@pytest.mark.parametrize(("label", "false_positives"), [(0, 0), (1, 1)])
def test_a_crowd_excuses_its_own_class_and_is_not_missed(label, false_positives):
    metric = PanopticQuality(LABELS)
    target = {"segmentation": row_of(7, 7, 0), "segments_info": [{"id": 7, "label_id": 0, "iscrowd": 1}]}
    prediction = {"segmentation": row_of(1, 1, 0), "segments_info": [{"id": 1, "label_id": label}]}
    metric.process([prediction], [target])
    metric.evaluate()
    rows = metric.per_class_table()
    assert [row["FP"] for row in rows] == [0] * label + [false_positives] + [0] * (2 - label)
    assert all(row["FN"] == 0 for row in rows)


def test_means_leave_out_classes_without_segments_and_things_are_apart():
    """Class 0 matches fully, class 2 is predicted and not there; class 1 does not occur."""
    true = SegmentMap(row_of(0, 0, -1)[None], np.array([0]))
    results, table = quality(row_of(1, 1, 2), [0, 2], true, thing_label_ids=[0, 1])
    assert (results["PQ"], results["PQ_th"], results["PQ_st"]) == (0.5, 1.0, 0.0)
    assert (results["SQ"], results["RQ"]) == (0.5, 0.5)  # SQ of a class without a match is 0, as in panopticapi
    assert math.isnan(table[1]["PQ"]) and [row["is_thing"] for row in table] == [True, True, False]
    assert all(isinstance(value, float) for value in results.values())
    results, _ = quality(row_of(1, 1, 2), [0, 2], true)
    assert math.isnan(results["PQ_st"])


def test_overlaps_can_be_allowed_and_the_first_layer_has_them():
    """Of segment 1 two pixels are left; ignored pixels stay ignored unless a layer has a segment there."""
    layers = np.stack([row_of(0, 0, -1, -1, -2, -1), row_of(-1, 1, 1, 1, -1, -2)])
    true = SegmentMap(layers, np.array([0, 0]))
    results, (row, *_) = quality(row_of(1, 1, 2, 2, 2, 2), [0, 0], true, allow_overlaps=True)
    assert (results["PQ"], row["TP"], row["FP"], row["FN"]) == (1.0, 2, 0, 0)


def test_instance_results_with_background_minus_one_and_ids_from_zero_are_taken():
    true = SegmentMap(row_of(0, 0, 1)[None], np.array([0, 1]))
    metric = PanopticQuality(LABELS)
    infos = [{"id": 0, "label_id": 0, "score": 0.9}, {"id": 1, "label_id": 1, "score": 0.8}]
    metric.process([{"segmentation": torch.tensor([[0.0, 0.0, 1.0]]), "segments_info": infos}], [true])
    assert metric.evaluate()["PQ"] == 1.0


def test_a_true_segment_without_a_pixel_does_not_count_and_layers_may_be_several():
    layers = np.stack([row_of(0, -1, -1), row_of(-1, 2, -1)])
    _, rows = quality(row_of(1, 2, 0), [0, 1], SegmentMap(layers, np.array([0, 0, 1])))
    assert [(row["TP"], row["FN"]) for row in rows] == [(1, 0), (1, 0), (0, 0)]


ONE = SegmentMap(row_of(0, 0, -1)[None], np.array([0]))


@pytest.mark.parametrize(
    ("ids", "infos", "target", "message"),
    [
        ((1, 1, 2), [(1, 0)], ONE, "holds the id 2, which segments_info does not have"),
        ((1, 1, 1), [(1, 0), (1, 1)], ONE, "the id 1 2 times"),
        ((1, 1, 1), [(1, 0), (2, 1)], ONE, "lists the id 2, which no pixel"),
        ((1, 1, 1), [(1, 3)], ONE, "label_id 3 is not among the 3 classes"),
        ((1, 1), [(1, 0)], ONE, r"the prediction is \(1, 2\), but the target \(1, 3\)"),
        ((1, 1, 0.5), [(1, 0)], ONE, "holds 0.5, which is no whole number"),
        ((1,), [(1, 0)], SegmentMap(np.array([[[0]], [[1]]]), np.array([0, 1])), "segments overlap on 1 pixels"),
        (
            (1,),
            [(1, 0)],
            SegmentMap(np.array([[[5]]]), np.array([0])),
            r"ids are in \[5, 5\], but must be in \[-2, 0\]",
        ),
        ((1,), [(1, 0)], np.zeros((1, 1)), "needs ids and class_ids"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_image(ids, infos, target, message):
    metric = PanopticQuality(LABELS)
    prediction = {"segmentation": np.array([ids]), "segments_info": [{"id": i, "label_id": k} for i, k in infos]}
    with pytest.raises(ValueError, match=f"image 'a.png': .*{message}"):
        metric.process([prediction], [target], ["a.png"])
    assert len(metric) == 0


def test_predictions_and_classes_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="segmentation and segments_info is needed, got the keys"):
        PanopticQuality(LABELS).process([{"masks": 1}], [ONE])
    with pytest.raises(ValueError, match="label_id 3 is not among"):
        PanopticQuality(LABELS, thing_label_ids=[3])
    with pytest.raises(ValueError, match="keys 0 to 1"):
        PanopticQuality({1: "a", 2: "b"})
