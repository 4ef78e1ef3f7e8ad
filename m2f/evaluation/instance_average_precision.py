"""Average precision of instance masks, and of their boundaries, as COCO defines them.

Source: https://cocodataset.org/#detection-eval (mask AP) and Cheng et al., Boundary IoU, CVPR 2021 (boundary AP: the
same counting with min(IoU, boundary IoU), where only pixels close to the contour count).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from m2f.evaluation.coco_matching import choose_engine, precision_and_recall
from m2f.evaluation.instance_overlaps import Overlaps, find_overlaps
from m2f.evaluation.instance_segments import PredictedInstances, TrueInstances
from m2f.evaluation.streaming_metric import StreamingMetric

# Suffixes of the results and COCOeval's area ranges: all, small (below 32^2 pixels), medium, large (from 96^2).
_AREAS = {"": 0, "s": 1, "m": 2, "l": 3}
_THRESHOLDS = {"50": 0, "75": 5}  # positions of the IoU thresholds 0.50 and 0.75


class InstanceAveragePrecision(StreamingMetric):
    """AP (mean over the IoU thresholds 0.50, 0.55 ... 0.95), AP50, AP75, APs, APm, APl by area; AR1, AR10, AR100, the
    recall with so many predictions per image and class, and ARs, ARm, ARl; the same with the prefix "Boundary".

    Numbers are in [0, 1], NaN where the truth has no such object. They equal pycocotools' (COCOeval with "segm");
    `coco_matching` says which library counts.

    A prediction is what `PredictedInstances.from_prediction` takes: the result of
    `post_process_instance_segmentation(..., threshold=0)` in each of its three forms, or masks, labels and scores. A
    target is what `TrueInstances.from_target` takes: an object with `ids` and `class_ids` such as `SegmentMap`, where
    ignored pixels are a crowd of every class, or the result of `TrueInstances.from_annotations`, which is exact for
    COCO's crowds and areas. Masks are compared at once; of an image only scores, areas and overlaps are kept.

    Args:
        id2label: see `StreamingMetric`.
        max_detections: ascending numbers of predictions per image and class, the best ones; AP and the results by
            area use the last one. COCO's own are 1, 10 and 100, which cuts off images with more than 100 objects of a
            class: where they exist, as with nuclei, end with a larger number, and say so beside the result. The same
            holds for `top_k` of the post-processing, which is 100 as well.
        boundary: whether to compute boundary AP too.
        engine: "faster-coco-eval", "pycocotools", or "auto" for the first one that is installed.

    Raises:
        ValueError: max_detections does not ascend from 1 or more; an unknown engine.
        ImportError: an engine that is asked for by name is not installed.
    """

    def __init__(
        self,
        id2label: Mapping[int, str],
        max_detections: Sequence[int] = (1, 10, 100),
        boundary: bool = True,
        engine: str = "auto",
    ):
        if list(max_detections) != sorted(set(max_detections)) or not max_detections or max_detections[0] < 1:
            raise ValueError(f"max_detections must be ascending numbers from 1, got {tuple(max_detections)}")
        self.max_detections = tuple(max_detections)
        self.boundary = boundary
        self.engine = choose_engine(engine)
        super().__init__(id2label)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "max_detections": self.max_detections, "boundary": self.boundary}

    def _count(self, prediction: Any, target: Any) -> Overlaps:
        predicted, truth = PredictedInstances.from_prediction(prediction), TrueInstances.from_target(target)
        self._check_labels([*predicted.class_ids.tolist(), *truth.class_ids.tolist()])
        return find_overlaps(predicted, truth, self.max_detections[-1], self.boundary)

    def _summarize(self, records: list[Overlaps]) -> tuple[dict[str, float], list[dict[str, Any]]]:
        results: dict[str, float] = {}
        columns: dict[str, list[float]] = {}
        for prefix, boundary in (("", False), ("Boundary", True))[: 1 + self.boundary]:
            precision, recall = precision_and_recall(
                records, self.num_labels, self.max_detections, boundary, self.engine
            )
            results |= {prefix + name: value for name, value in self._means(precision, recall).items()}
            by_class = [self._means(precision[:, :, [k]], recall[:, [k]]) for k in range(self.num_labels)]
            columns |= {prefix + name: [means[name] for means in by_class] for name in by_class[0]}
        objects = np.zeros(self.num_labels, np.int64)
        for record in records:
            objects += np.bincount(record.true_class_ids[~record.crowd], minlength=self.num_labels)
        return results, self._named_rows({**columns, "objects": objects.tolist()})

    def _means(self, precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
        """The results from COCOeval's arrays, of which the last axis is `max_detections`."""
        averages = {f"AP{suffix}": _mean(precision[:, :, :, area, -1]) for suffix, area in _AREAS.items()}
        at_threshold = {f"AP{name}": _mean(precision[i, :, :, 0, -1]) for name, i in _THRESHOLDS.items()}
        recalls = {f"AR{count}": _mean(recall[:, :, 0, m]) for m, count in enumerate(self.max_detections)}
        by_area = {f"AR{suffix}": _mean(recall[:, :, area, -1]) for suffix, area in _AREAS.items() if suffix}
        return {"AP": averages.pop("AP"), **at_threshold, **averages, **recalls, **by_area}


def _mean(values: np.ndarray) -> float:
    """Mean over what exists; COCOeval marks the rest with -1."""
    existing = values[values > -1]
    return float(existing.mean()) if existing.size else float("nan")
