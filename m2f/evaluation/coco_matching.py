"""Precision and recall as COCO counts them, by a library, from overlaps that are known already.

faster-coco-eval (C++, Apache-2.0, since 2023) counts where it is installed, else pycocotools, the reference itself.
In both `computeIoU` can be overridden, so that one piece of code serves mask AP and boundary AP and no mask is needed
any more; the tests hold them to each other and to plain pycocotools within 1e-9. hotcoco 1.3 (Rust, MIT) has the same
mask AP to the last bit, but no boundary AP, and takes no IoU from outside.
"""

import contextlib
import importlib.util
import io
from collections.abc import Sequence

import numpy as np
from transformers.utils import logging

from m2f.evaluation.instance_overlaps import Overlaps, position_in_class

logger = logging.get_logger(__name__)

ENGINES = ("auto", "faster-coco-eval", "pycocotools")


def choose_engine(engine: str) -> str:
    """The library that counts: "auto" is faster-coco-eval where it is installed, else pycocotools with one warning.

    Raises:
        ValueError: none of `ENGINES`.
        ImportError: faster-coco-eval is asked for by name and not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if engine == "pycocotools":
        return engine
    if importlib.util.find_spec("faster_coco_eval") is not None:
        return "faster-coco-eval"
    if engine != "auto":
        raise ImportError("engine='faster-coco-eval' needs the package: pip install faster-coco-eval")
    logger.warning_once(
        "pycocotools counts the average precision: the same numbers, but slow with many instances. "
        "pip install faster-coco-eval"
    )
    return "pycocotools"


def precision_and_recall(
    images: Sequence[Overlaps], num_labels: int, max_detections: Sequence[int], boundary: bool, engine: str
) -> tuple[np.ndarray, np.ndarray]:
    """COCOeval's `precision` (10 IoU thresholds, 101 recalls, K, 4 areas, M) and `recall` (10, K, 4, M).

    -1 where no object exists. The thresholds are 0.50, 0.55 ... 0.95; the areas all, small (below 32^2 pixels),
    medium and large (from 96^2).

    Args:
        images: in the order that decides between equal scores.
        max_detections: M ascending numbers of predictions per image and class.
        boundary: take the boundary IoU.
        engine: "faster-coco-eval" or "pycocotools".
    """
    if engine == "faster-coco-eval":
        from faster_coco_eval import COCOeval_faster as COCOeval
    else:
        from pycocotools.cocoeval import COCOeval

    class OverlapEvaluation(COCOeval):
        def computeIoU(self, image_id, category_id):
            return _iou_matrix(images[image_id - 1], category_id, boundary)

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress by print
        # For boxes, because the libraries decode masks for "segm"; the other parameters are the same.
        evaluation = OverlapEvaluation(*_datasets(images, num_labels), "bbox")
        evaluation.params.maxDets = list(max_detections)
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])


def _iou_matrix(image: Overlaps, label: int, boundary: bool) -> np.ndarray | list:
    """(D, G) IoU of the predictions of a class, best score first, with its objects; [] if one of them is missing."""
    shape = [int((class_ids == label).sum()) for class_ids in (image.class_ids, image.true_class_ids)]
    if 0 in shape:
        return []
    predictions, objects = image.pairs.T
    of_label = image.class_ids[predictions] == label
    rows = position_in_class(image.class_ids)[predictions[of_label]]
    columns = position_in_class(image.true_class_ids)[objects[of_label]]
    matrix = np.zeros(shape)
    matrix[rows, columns] = (image.boundary_ious if boundary else image.ious)[of_label]
    return matrix


def _datasets(images: Sequence[Overlaps], num_labels: int) -> list:
    """Ground truth and predictions as pycocotools' COCO objects; images and annotations are numbered from 1, because
    COCOeval takes an annotation's id 0 for "no match"."""
    from pycocotools.coco import COCO

    shared = {"images": [{"id": number} for number in range(1, len(images) + 1)]}
    shared["categories"] = [{"id": label} for label in range(num_labels)]
    truth: list[dict] = []
    predictions: list[dict] = []
    for image_id, image in enumerate(images, start=1):
        fields = (image.true_class_ids, image.true_areas, image.crowd)
        for label, area, crowd in zip(*(field.tolist() for field in fields), strict=True):
            entry = {"id": len(truth) + 1, "image_id": image_id, "category_id": label, "area": area}
            truth.append({**entry, "iscrowd": int(crowd)})
        fields = (image.class_ids, image.areas, image.scores)
        for label, area, score in zip(*(field.tolist() for field in fields), strict=True):
            entry = {"id": len(predictions) + 1, "image_id": image_id, "category_id": label, "area": area}
            predictions.append({**entry, "score": score})
    datasets = []
    for annotations in (truth, predictions):
        dataset = COCO()
        dataset.dataset = {**shared, "annotations": annotations}
        dataset.createIndex()
        datasets.append(dataset)
    return datasets
