"""Panoptic quality of segments that do not overlap.

Source: Kirillov et al., Panoptic Segmentation, CVPR 2019, section 4, and the published evaluation
(cocodataset/panopticapi, evaluation.py), whose treatment of void and crowd it follows:

    a predicted and a true segment of one class match if their IoU > 0.5, where void pixels are no part of the union
    PQ = (sum of the IoU of matches) / (TP + FP/2 + FN/2) = SQ * RQ
    SQ = (sum of the IoU of matches) / TP,  RQ = TP / (TP + FP/2 + FN/2)
    a predicted segment of whose pixels more than half are void or in a crowd of its class is no false positive
    a crowd matches nothing and is no false negative

Counted here, image by image, because the libraries do not: panopticapi and hotcoco 1.3 read a whole data set, as
PNG files or as one RLE for each segment; torchmetrics knows no crowds. The counts of an image come from one histogram.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from m2f.evaluation.index_maps import flatten_layers, layers_of, segment_indices, segments_of
from m2f.evaluation.streaming_metric import StreamingMetric
from m2f.image_processing.label_values import IGNORED, NOTHING

_GROUPS = {"": None, "_th": True, "_st": False}  # suffix of the result, and which classes: all, things, stuff


class _Counts(NamedTuple):
    """The C classes of an image for which there is something to count."""

    class_ids: np.ndarray  # (C,) int32
    outcomes: np.ndarray  # (C, 3) int32: true positives, false positives, false negatives
    iou_sums: np.ndarray  # (C,) float64, over the true positives


class _Truth(NamedTuple):
    """The true segments of an image."""

    indices: np.ndarray  # (H, W): index of the segment, `NOTHING` (none of the classes) or `IGNORED` (void)
    class_ids: np.ndarray  # (N,) int64
    crowd: np.ndarray  # (N,) bool


class PanopticQuality(StreamingMetric):
    """PQ, SQ and RQ: means over all classes, over things (`_th`), over stuff (`_st`), and of each class.

    A class without any true or predicted segment that counts is left out of the means; if none is left they are NaN
    (panopticapi fails then). Several crowds of one class in an image all count; panopticapi takes the last one alone,
    and its data have at most one.

    A prediction is a mapping with `segmentation`, an (H, W) id map, and `segments_info`, a list of mappings with `id`
    and `label_id`: what `post_process_panoptic_segmentation` returns, or `post_process_instance_segmentation` without
    its options. Pixels of no segment have an id, 0 or -1, that is not listed.

    A target is either
    - an object with `ids` (G, H, W) and `class_ids` (N,) such as `SegmentMap`, whose segments do not overlap. -2 is
      void. -1 is a pixel known to belong to none of the classes, where a prediction is wrong: a data set that leaves
      unlabelled pixels open must mark them -2. True segments without a pixel do not count;
    - or a mapping as for predictions, in which a segment may have `iscrowd` 1; pixels of no segment are void. It is
      the exact form where there are crowds, which a `SegmentMap` does not have: there they are void for every class.
      `panoptic_target` (m2f.evaluation.coco_truth) makes it from COCO's files.

    Args:
        id2label: see `StreamingMetric`.
        thing_label_ids: the classes that are things; None: all, []: none.
        allow_overlaps: where true segments overlap, which panoptic data do not do, count a pixel for the one on the
            first layer. The result is no panoptic quality in the strict sense then.
    """

    def __init__(
        self,
        id2label: Mapping[int, str],
        thing_label_ids: Collection[int] | None = None,
        allow_overlaps: bool = False,
    ):
        self.allow_overlaps = allow_overlaps
        things = id2label if thing_label_ids is None else thing_label_ids
        self.thing_label_ids = sorted(int(label) for label in things)
        super().__init__(id2label)
        self._check_labels(self.thing_label_ids)

    def _settings(self) -> dict[str, Any]:
        own = {"thing_label_ids": self.thing_label_ids, "allow_overlaps": self.allow_overlaps}
        return {**super()._settings(), **own}

    def _count(self, prediction: Mapping[str, Any], target: Any) -> _Counts:
        segmentation, infos = segments_of(prediction)
        predicted, classes = segment_indices(segmentation, infos), self._labels(infos)
        truth = self._truth(target)
        if predicted.shape != truth.indices.shape:
            raise ValueError(
                f"the prediction is {predicted.shape}, but the target {truth.indices.shape} (height, width)"
            )
        pixels = _common_pixels(truth.indices, predicted, len(truth.class_ids), len(classes))
        empty = (pixels[:, :-1].sum(0) == 0).nonzero()[0]
        if empty.size:
            missing = infos[empty[0]]["id"]
            raise ValueError(f"segments_info lists the id {missing}, which no pixel of the segmentation has")
        return _count_segments(pixels, truth, classes, self.num_labels)

    def _truth(self, target: Any) -> _Truth:
        if isinstance(target, Mapping):
            segmentation, infos = segments_of(target)
            indices = segment_indices(segmentation, infos)
            crowd = np.array([bool(info.get("iscrowd", 0)) for info in infos], bool)
            return _Truth(np.where(indices == NOTHING, IGNORED, indices), self._labels(infos), crowd)
        ids, class_ids = layers_of(target)
        self._check_labels(class_ids)
        return _Truth(flatten_layers(ids, self.allow_overlaps), class_ids, np.zeros(len(class_ids), bool))

    def _labels(self, infos: Sequence[Mapping]) -> np.ndarray:
        labels = np.array([info["label_id"] for info in infos], np.int64)
        self._check_labels(labels)
        return labels

    def _summarize(self, records: list[_Counts]) -> tuple[dict[str, float], list[dict[str, Any]]]:
        outcomes, iou_sums = np.zeros((self.num_labels, 3), np.int64), np.zeros(self.num_labels)
        for record in records:
            outcomes[record.class_ids] += record.outcomes
            iou_sums[record.class_ids] += record.iou_sums
        qualities = _qualities(outcomes, iou_sums)
        is_thing = np.isin(np.arange(self.num_labels), self.thing_label_ids)
        results = {}
        for suffix, things in _GROUPS.items():
            group = ~np.isnan(qualities["PQ"]) & (True if things is None else is_thing == things)
            for name, values in qualities.items():
                results[name + suffix] = float(values[group].mean()) if group.any() else float("nan")
        columns = {name: values.tolist() for name, values in qualities.items()}
        columns |= dict(zip(("TP", "FP", "FN"), outcomes.T.tolist(), strict=True)) | {"is_thing": is_thing.tolist()}
        return results, self._named_rows(columns)


def _common_pixels(truth: np.ndarray, predicted: np.ndarray, num_true: int, num_predicted: int) -> np.ndarray:
    """(N + 2, P + 1) pixels that each true and each predicted segment share; rows N and N + 1 are void and none of the
    classes, column P is no predicted segment."""
    # From the end, -1 and -2 are the last two rows and -1 is the last column.
    rows, columns = truth.astype(np.int64) % (num_true + 2), predicted.astype(np.int64) % (num_predicted + 1)
    cells = rows * (num_predicted + 1) + columns
    size = (num_true + 2) * (num_predicted + 1)
    return np.bincount(cells.ravel(), minlength=size).reshape(num_true + 2, num_predicted + 1)


def _count_segments(pixels: np.ndarray, truth: _Truth, classes: np.ndarray, num_labels: int) -> _Counts:
    """Matches and misses of an image.

    Args:
        pixels: of `_common_pixels`.
        classes: (P,) classes of the predicted segments.
    """
    true_areas, areas = pixels[:-2].sum(1), pixels.sum(0)[:-1]
    void, common = pixels[-2, :-1], pixels[:-2, :-1]
    same_class = truth.class_ids[:, None] == classes
    # A predicted segment with void pixels alone shares nothing: its union with a true segment is that one's area.
    union = np.maximum(true_areas[:, None] + areas - common - void, 1)
    iou = np.where(same_class & ~truth.crowd[:, None], common / union, 0.0)
    true_index, predicted_index = (iou > 0.5).nonzero()

    in_crowd = (common * (same_class & truth.crowd[:, None])).sum(0)
    false_positive = (void + in_crowd) / np.maximum(areas, 1) <= 0.5
    false_positive[predicted_index] = False
    false_negative = ~truth.crowd & (true_areas > 0)
    false_negative[true_index] = False

    hits = truth.class_ids[true_index]
    lists = (hits, classes[false_positive], truth.class_ids[false_negative])
    outcomes = np.stack([np.bincount(found, minlength=num_labels) for found in lists], axis=1)
    iou_sums = np.bincount(hits, iou[true_index, predicted_index], minlength=num_labels)
    present = outcomes.any(1).nonzero()[0]
    return _Counts(present.astype(np.int32), outcomes[present].astype(np.int32), iou_sums[present])


def _qualities(outcomes: np.ndarray, iou_sums: np.ndarray) -> dict[str, np.ndarray]:
    """(K,) PQ, SQ and RQ, NaN for classes without segments."""
    hits, denominator = outcomes[:, 0], outcomes @ np.array([1.0, 0.5, 0.5])
    known = denominator > 0
    nowhere = np.full(len(hits), np.nan)
    return {
        "PQ": np.divide(iou_sums, denominator, out=nowhere.copy(), where=known),
        # As in panopticapi, 0 for a class without a match.
        "SQ": np.where(known, iou_sums / np.maximum(hits, 1), np.nan),
        "RQ": np.divide(hits, denominator, out=nowhere.copy(), where=known),
    }
