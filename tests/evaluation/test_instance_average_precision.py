"""Average precision against COCOeval itself, boundary AP against COCOeval with boundaries made by plain erosion."""

import contextlib
import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluation_cases import encode, perturbed_nuclei, random_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_masks import pack_masks
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.ndimage import binary_erosion

from m2f.data.segment_map import SegmentMap
from m2f.evaluation.instance_average_precision import InstanceAveragePrecision
from m2f.evaluation.instance_segments import TrueInstances

# The order of COCOeval.stats for three numbers of detections.
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
ENGINES = ("faster-coco-eval", "pycocotools")


def boundary_of(rle: dict) -> dict:
    """Mask minus its erosion, one pixel at a time, outside of the image is background; d as in the published code."""
    mask = coco_mask.decode(rle).astype(bool)
    distance = max(1, int(round(0.02 * np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2))))
    padded = binary_erosion(np.pad(mask, 1), np.ones((3, 3)), iterations=distance)
    return encode(mask & ~padded[1:-1, 1:-1])


class BoundaryEval(COCOeval):
    """COCOeval with the smaller one of IoU and boundary IoU; with crowds the IoU."""

    def computeIoU(self, imgId, catId):
        truth, predicted = self._gts[imgId, catId], self._dts[imgId, catId]
        order = np.argsort([-entry["score"] for entry in predicted], kind="mergesort")[: self.params.maxDets[-1]]
        crowd = np.array([entry["iscrowd"] for entry in truth], bool)
        lists = [predicted[i]["segmentation"] for i in order], [entry["segmentation"] for entry in truth]
        ious = super().computeIoU(imgId, catId)
        if not truth or not predicted:
            return ious
        boundary = coco_mask.iou(*([boundary_of(rle) for rle in rles] for rles in lists), crowd.tolist())
        return np.where(crowd, ious, np.minimum(ious, boundary))


def coco_stats(dataset: dict, results: list[dict], evaluation_class=COCOeval, max_detections=(1, 10, 100)) -> dict:
    """COCOeval's summary of a COCO json and a results json."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        evaluation = evaluation_class(truth, truth.loadRes([dict(entry) for entry in results]), "segm")
        evaluation.params.maxDets = list(max_detections)
        evaluation.evaluate()
        evaluation.accumulate()
        if max_detections[-1] == 100:
            evaluation.summarize()
            return dict(zip(NAMES, evaluation.stats, strict=True))
    # COCOeval.summarize knows AP with 100 detections alone.
    precision = evaluation.eval["precision"][..., 0, -1]
    return {"AP": precision[precision > -1].mean() if (precision > -1).any() else -1}


def assert_equal(results: dict, expected: dict, prefix: str = ""):
    for name, value in expected.items():
        value = math.nan if value == -1 else value  # COCOeval's "there is none"
        assert results[prefix + name] == pytest.approx(value, abs=1e-9, nan_ok=True), prefix + name


def random_dataset(generator: np.random.Generator) -> tuple[dict, list[dict]]:
    """A COCO json of 1 to 3 images, with crowds, and a results json, with equal scores now and then."""
    images, annotations, results = [], [], []
    for image_id in range(1, generator.integers(1, 4) + 1):
        height, width = generator.integers(8, 130, 2).tolist()
        images.append({"id": image_id, "height": height, "width": width})
        mine = []
        for _ in range(generator.integers(0, 6)):
            mask = random_mask(generator, height, width)
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(generator.integers(3))}
            entry |= {"segmentation": encode(mask), "iscrowd": int(generator.random() < 0.2)}
            mine.append({**entry, "area": float(mask.sum() * generator.choice([1.0, 0.9]))})
            annotations.append(mine[-1])
        for _ in range(generator.integers(0, 8)):
            mask, category = random_mask(generator, height, width), int(generator.integers(3))
            if mine and generator.random() < 0.7:
                like = mine[generator.integers(len(mine))]
                mask = np.roll(coco_mask.decode(like["segmentation"]), generator.integers(-1, 2, 2), (0, 1))
                category = like["category_id"]
            score = float(generator.random() if image_id % 2 else generator.integers(1, 5) / 4)
            entry = {"image_id": image_id, "category_id": category, "segmentation": encode(mask), "score": score}
            results.append(entry)
    categories = [{"id": label, "name": str(label)} for label in range(3)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}, results


def metric_of(dataset: dict, results: list[dict], **options) -> InstanceAveragePrecision:
    metric = InstanceAveragePrecision({entry["id"]: entry["name"] for entry in dataset["categories"]}, **options)
    for image in dataset["images"]:
        truth, predicted = (
            [entry for entry in entries if entry["image_id"] == image["id"]]
            for entries in (dataset["annotations"], results)
        )
        target = TrueInstances.from_annotations(truth, (image["height"], image["width"]), range(metric.num_labels))
        prediction = {
            "masks": [entry["segmentation"] for entry in predicted],
            "labels": [entry["category_id"] for entry in predicted],
            "scores": [entry["score"] for entry in predicted],
        }
        metric.process([prediction], [target], [image["id"]])
    return metric


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), last=st.sampled_from([2, 100]))
def test_equals_cocoeval_on_random_masks_with_crowds_and_equal_scores(seed, last):
    dataset, results = random_dataset(np.random.default_rng(seed))
    if not results:
        return  # COCO.loadRes fails on an empty list
    max_detections = (1, 10, 100) if last == 100 else (1, 2)
    expected = coco_stats(dataset, results, max_detections=max_detections)
    expected_boundary = coco_stats(dataset, results, BoundaryEval, max_detections)
    for engine in ENGINES:
        found = metric_of(dataset, results, max_detections=max_detections, engine=engine).evaluate()
        assert_equal(found, expected)
        assert_equal(found, expected_boundary, "Boundary")


@pytest.fixture(scope="module")
def nuclei() -> tuple[dict, list[dict], list]:
    """The bundled images as a COCO json, a results json, and as they are."""
    cases = list(perturbed_nuclei())
    images, annotations, results = [], [], []
    for case in cases:
        height, width = case.masks.shape[1:]
        images.append({"id": case.image_id, "height": height, "width": width})
        for mask in case.masks:
            entry = {"id": len(annotations) + 1, "image_id": case.image_id, "category_id": 0, "iscrowd": 0}
            annotations.append({**entry, "segmentation": encode(mask), "area": float(mask.sum())})
        for mask, score in zip(case.predicted, case.scores.tolist(), strict=True):
            entry = {"image_id": case.image_id, "category_id": 0, "segmentation": encode(mask), "score": score}
            results.append(entry)
    return {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 0}]}, results, cases


@pytest.mark.parametrize("engine", ENGINES)
def test_equals_cocoeval_on_nuclei(nuclei, engine):
    dataset, results, cases = nuclei
    metric = InstanceAveragePrecision({0: "nucleus"}, engine=engine)
    for case in cases:
        prediction = {"masks": case.predicted, "labels": [0] * len(case.scores), "scores": case.scores}
        metric.process([prediction], [case.segment_map()], [case.image_id])
    found = metric.evaluate()
    assert 0.1 < found["BoundaryAP"] < found["AP"] < 0.9
    assert_equal(found, coco_stats(dataset, results))
    assert_equal(found, coco_stats(dataset, results, BoundaryEval), "Boundary")
    (row,) = metric.per_class_table()
    assert row["name"] == "nucleus" and row["objects"] == len(dataset["annotations"])
    assert {name: row[name] for name in found} == pytest.approx(found, nan_ok=True)  # the only class


def test_post_processing_gives_three_forms_with_the_same_result():
    """(N, H, W) maps, RLEs and an id map of instances that do not overlap, float as transformers' own."""
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, :3], masks[1, 4:, 2:] = True, True
    infos = [{"id": i, "label_id": i, "score": 0.9 - i / 10, "was_fused": False} for i in range(2)]
    id_map = torch.full((6, 8), -1.0)
    id_map[masks[0]], id_map[masks[1]] = 0, 1
    target = SegmentMap(np.where(np.arange(48).reshape(1, 6, 8) < 20, 0, -1).astype(np.int32), np.array([0]))
    results = []
    for segmentation in (masks, [encode(mask.numpy()) for mask in masks], id_map, list(masks.numpy())):
        metric = InstanceAveragePrecision({0: "a", 1: "b"})
        metric.process([{"segmentation": segmentation, "segments_info": infos}], [target])
        results.append(metric.evaluate())
    metric = InstanceAveragePrecision({0: "a", 1: "b"})
    scores = torch.tensor([info["score"] for info in infos], dtype=torch.float64)
    metric.process([{"masks": masks, "labels": torch.tensor([0, 1]), "scores": scores}], [target])
    results.append(metric.evaluate())
    assert results[0]["AP"] == pytest.approx(0.7)  # IoU 20/24 = 0.83: a hit at 0.50 to 0.80, seven of ten thresholds
    for other in results[1:]:
        assert other == pytest.approx(results[0], nan_ok=True)


def strip(start: int, end: int) -> np.ndarray:
    mask = np.zeros((10, 20), bool)
    mask[:, start:end] = True
    return mask


def average_precision(masks: list, labels: list, target, **options) -> dict:
    """Of predictions in descending order of their scores."""
    metric = InstanceAveragePrecision({0: "a", 1: "b"}, **options)
    scores = np.linspace(0.9, 0.1, len(masks))
    metric.process([{"masks": np.array(masks), "labels": labels, "scores": scores}], [target])
    return metric.evaluate()


def test_a_prediction_inside_ignored_pixels_is_not_wrong_whatever_its_class():
    """The first prediction would halve the precision. Of the longer one 6 of 10 columns are ignored: a share of 0.6,
    which excuses it at the thresholds 0.50, 0.55 and 0.60."""
    target = pack_masks([strip(10, 20)], [0], (10, 20), ignored=strip(0, 6))
    for label in (0, 1):
        results = average_precision([strip(0, 6), strip(10, 20)], [label, 0], target)
        assert results["AP"] == pytest.approx(1.0)
    assert average_precision([strip(0, 10), strip(10, 20)], [0, 0], target)["AP"] == pytest.approx(0.3 + 0.7 * 0.5)
    plain = pack_masks([strip(10, 20)], [0], (10, 20))
    assert average_precision([strip(0, 6), strip(10, 20)], [0, 0], plain)["AP"] == pytest.approx(0.5)


@pytest.mark.parametrize(("crowd_class", "expected"), [(0, 1.0), (1, 0.5)])
def test_annotations_give_crowds_their_class(crowd_class, expected):
    annotations = [
        {"category_id": 5, "segmentation": encode(strip(10, 20)), "area": 100},
        {"category_id": (5, 9)[crowd_class], "segmentation": encode(strip(0, 8)), "iscrowd": 1},
    ]
    target = TrueInstances.from_annotations(annotations, (10, 20), category_ids=[5, 9])
    results = average_precision([strip(0, 6), strip(10, 20)], [0, 0], target)
    assert results["AP"] == pytest.approx(expected)


def test_more_than_a_hundred_objects_need_more_detections():
    """120 objects of 2 pixels, all found: 100 detections are a recall of 100/120."""
    ids = np.full((1, 24, 20), -1, np.int32)
    ids[0, ::2] = np.arange(120).reshape(12, 10).repeat(2, axis=1)
    target = SegmentMap(ids, np.zeros(120, np.int64))
    infos = [{"id": number, "label_id": 0, "score": 0.5} for number in range(120)]
    prediction = {"segmentation": ids[0], "segments_info": infos}
    recalls = {}
    for last in (100, 200):
        metric = InstanceAveragePrecision({0: "a"}, (1, 10, last))
        metric.process([prediction], [target])
        recalls[last] = metric.evaluate()[f"AR{last}"]
    assert recalls == {100: pytest.approx(100 / 120), 200: pytest.approx(1.0)}


def test_objects_without_a_pixel_do_not_count_and_no_predictions_are_a_precision_of_zero():
    target = SegmentMap(np.where(strip(0, 5), 1, -1)[None].astype(np.int32), np.array([0, 1]))
    metric = InstanceAveragePrecision({0: "a", 1: "b"})
    metric.process([{"segmentation": [], "segments_info": []}], [target])
    results = metric.evaluate()
    assert results["AP"] == 0.0 and results["AR100"] == 0.0
    assert [row["objects"] for row in metric.per_class_table()] == [0, 1]
    metric.reset()
    metric.process(
        [{"segmentation": [], "segments_info": []}], [SegmentMap(-np.ones((1, 3, 3), np.int32), np.zeros(0))]
    )
    assert math.isnan(metric.evaluate()["AP"])


def test_boundary_ap_is_stricter_with_holes_and_can_be_left_out():
    """A hole in the middle of a large mask changes the IoU by 1%; near the contour nothing differs, so that the
    boundary has an inner contour more: of the image's diagonal 141 it is 3 pixels wide, 4 * 3 * 97 outside and
    4 * 3 * 13 around the hole of 10 x 10."""
    mask = np.ones((100, 100), bool)
    holed = mask.copy()
    holed[45:55, 45:55] = False
    target = pack_masks([mask], [0], (100, 100))
    results = average_precision([holed], [0], target)
    outside, around = 4 * 3 * 97, 4 * 3 * 13
    iou = outside / (outside + around)  # 0.88
    assert results["AP"] == pytest.approx(1.0)
    assert results["BoundaryAP"] == pytest.approx(np.mean(np.arange(0.5, 1, 0.05) <= iou))
    assert not any(name.startswith("Boundary") for name in average_precision([holed], [0], target, boundary=False))


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        ({"masks": np.ones((1, 10, 20)), "labels": [2], "scores": [1]}, "label_id 2 is not among the 2 classes"),
        ({"masks": np.ones((1, 10, 20)), "labels": [0, 1], "scores": [1, 1]}, "1 masks, 2 labels and 2 scores"),
        ({"masks": np.ones((1, 9, 20)), "labels": [0], "scores": [1]}, r"is \(9, 20\), but the target \(10, 20\)"),
        ({"masks": np.ones((10, 20)), "labels": [0], "scores": [1]}, r"shape \(10, 20\); \(N, H, W\)"),
        ({"masks": np.ones((1, 10, 20)), "labels": [0], "scores": [math.nan]}, "a score is NaN"),
        ({"masks": np.ones((1, 10, 20))}, r"got the keys \['masks'\]"),
        (SimpleNamespace(masks=1), "got SimpleNamespace"),
    ],
)
def test_what_does_not_fit_is_refused(prediction, message):
    metric = InstanceAveragePrecision({0: "a", 1: "b"})
    with pytest.raises(ValueError, match=message):
        metric.process([prediction], [pack_masks([strip(0, 5)], [0], (10, 20))])
    assert len(metric) == 0


def test_options_are_checked():
    for wrong in ((), (0, 1), (10, 1)):
        with pytest.raises(ValueError, match="ascending numbers from 1"):
            InstanceAveragePrecision({0: "a"}, wrong)
    with pytest.raises(ValueError, match="engine must be one of auto, faster-coco-eval, pycocotools, got 'x'"):
        InstanceAveragePrecision({0: "a"}, engine="x")


@pytest.mark.parametrize("engine", ENGINES)
def test_prints_nothing(nuclei, capsys, engine):
    dataset, results, _ = nuclei
    one_image = {**dataset, "images": dataset["images"][:1], "categories": [{"id": 0, "name": "nucleus"}]}
    metric_of(one_image, results, engine=engine).evaluate()
    assert capsys.readouterr().out == ""
