"""The record of an image for average precision: how predictions and objects overlap, without their masks."""

from typing import NamedTuple

import numpy as np

from m2f.evaluation.instance_segments import PredictedInstances, TrueInstances, rle_areas
from m2f.evaluation.mask_rle import boundary_rle

# COCO's lowest threshold: two masks that overlap less match at none, so their IoU need not be kept.
_LOWEST_IOU = 0.5


class Overlaps(NamedTuple):
    """D predictions, best score first, G objects, and the P pairs of one class with an IoU of 0.5 or more.

    The IoU with a crowd is the share of the prediction that lies inside, as COCO has it.
    """

    class_ids: np.ndarray  # (D,) int32
    scores: np.ndarray  # (D,) float64
    areas: np.ndarray  # (D,) float64 pixels
    true_class_ids: np.ndarray  # (G,) int32
    true_areas: np.ndarray  # (G,) float64 pixels
    crowd: np.ndarray  # (G,) bool
    pairs: np.ndarray  # (P, 2) int32: prediction, object
    ious: np.ndarray  # (P,) float64
    boundary_ious: np.ndarray  # (P,) float64, the smaller one of IoU and boundary IoU; () where it is not wanted


def find_overlaps(
    predicted: PredictedInstances, truth: TrueInstances, max_detections: int, with_boundary: bool
) -> Overlaps:
    """Compare the masks of an image.

    Args:
        max_detections: predictions of each class that are kept, the best ones.
        with_boundary: whether to compute the boundary IoU too, with a crowd the same as the IoU. Only pairs of an IoU
            of 0.5 or more need it: the value that counts is the smaller one of both.

    Raises:
        ValueError: a mask is not of the image's size.
    """
    for rle in predicted.rles:
        if tuple(rle["size"]) != truth.size:
            raise ValueError(f"a predicted mask is {tuple(rle['size'])}, but the target {truth.size} (height, width)")
    kept = _best_of_each_class(predicted, max_detections)
    rles, class_ids = [predicted.rles[i] for i in kept], predicted.class_ids[kept]
    true_rles, true_class_ids, true_areas, crowd = _with_ignored(truth, np.unique(class_ids))
    pairs, ious = _pairs(rles, class_ids, true_rles, true_class_ids, crowd)
    boundary_ious = _boundary_ious(rles, true_rles, crowd, pairs, ious) if with_boundary else np.zeros(0)
    return Overlaps(
        class_ids.astype(np.int32),
        predicted.scores[kept],
        rle_areas(rles),
        true_class_ids.astype(np.int32),
        true_areas,
        crowd,
        pairs.astype(np.int32),
        ious,
        boundary_ious,
    )


def _best_of_each_class(predicted: PredictedInstances, count: int) -> np.ndarray:
    """Positions of the `count` best predictions of each class, best score first; ties stay in their order."""
    order = np.argsort(-predicted.scores, kind="stable")
    rank = position_in_class(predicted.class_ids[order])
    return order[rank < count]


def position_in_class(class_ids: np.ndarray) -> np.ndarray:
    """(N,) how many of the same class come before each."""
    order = np.argsort(class_ids, kind="stable")
    ordered = class_ids[order]
    positions = np.empty(len(class_ids), np.int64)
    positions[order] = np.arange(len(class_ids)) - np.searchsorted(ordered, ordered)
    return positions


def _with_ignored(truth: TrueInstances, classes: np.ndarray) -> tuple[list[dict], np.ndarray, np.ndarray, np.ndarray]:
    """RLEs, classes, areas and crowd flags of the objects; the ignored region is a crowd of each predicted class."""
    if truth.ignored is None:
        return truth.rles, truth.class_ids, truth.areas, truth.crowd
    area = rle_areas([truth.ignored])
    return (
        truth.rles + [truth.ignored] * len(classes),
        np.concatenate([truth.class_ids, classes]),
        np.concatenate([truth.areas, np.repeat(area, len(classes))]),
        np.concatenate([truth.crowd, np.ones(len(classes), bool)]),
    )


def _pairs(
    rles: list[dict], class_ids: np.ndarray, true_rles: list[dict], true_class_ids: np.ndarray, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(P, 2) pairs and (P,) their IoU, class by class."""
    from pycocotools import mask as coco_mask

    pairs, values = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    for label in np.intersect1d(class_ids, true_class_ids):
        rows, columns = (ids == label for ids in (class_ids, true_class_ids))
        rows, columns = rows.nonzero()[0], columns.nonzero()[0]
        ious = coco_mask.iou([rles[i] for i in rows], [true_rles[i] for i in columns], crowd[columns].tolist())
        close = ious >= _LOWEST_IOU
        found = np.argwhere(close)
        pairs.append(np.stack([rows[found[:, 0]], columns[found[:, 1]]], axis=1))
        values.append(ious[close])
    return np.concatenate(pairs), np.concatenate(values)


def _boundary_ious(
    rles: list[dict], true_rles: list[dict], crowd: np.ndarray, pairs: np.ndarray, ious: np.ndarray
) -> np.ndarray:
    from pycocotools import mask as coco_mask

    smaller = ious.copy()
    boundaries = {i: boundary_rle(rles[i]) for i in np.unique(pairs[:, 0]).tolist()}
    true_boundaries = {i: boundary_rle(true_rles[i]) for i in np.unique(pairs[:, 1]).tolist() if not crowd[i]}
    for number, (prediction, true) in enumerate(pairs.tolist()):
        if not crowd[true]:
            boundary_iou = coco_mask.iou([boundaries[prediction]], [true_boundaries[true]], [0])[0, 0]
            smaller[number] = min(smaller[number], boundary_iou)
    return smaller
