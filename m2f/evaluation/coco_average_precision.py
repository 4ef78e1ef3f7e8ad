"""Average precision of instance masks as COCO defines it, counted by pycocotools (https://cocodataset.org/#detection-eval)."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Positions of COCOeval's area ranges, "all", "small" (below 32^2 pixels), "medium" and "large" (from 96^2).
_AREAS = {"": 0, "s": 1, "m": 2, "l": 3}


class CocoAveragePrecision:
    """Collects predictions image by image and compares them with a COCO instance json.

    Args:
        annotation_file: the ground truth. All of its images count, whether they are processed or not.
        max_detections: predictions per image that count, the best ones; COCO's own number is 100.

    Raises:
        ValueError: max_detections below 1.
    """

    def __init__(self, annotation_file: str | Path, max_detections: int = 100):
        from pycocotools.coco import COCO

        if max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, got {max_detections}")
        self.max_detections = max_detections
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress by print
            self._truth = COCO(str(annotation_file))
        self._category_ids = sorted(self._truth.getCatIds())
        self.reset()

    def reset(self):
        """Forget all predictions."""
        self.predictions: list[dict] = []
        self._processed: set[int] = set()

    def process(self, image_id: int, segmentation: Sequence[Mapping[str, Any]], segments_info: Sequence[Mapping]):
        """Add the predictions of one image; the last two arguments are the entries of what
        `post_process_instance_segmentation(..., return_coco_annotation=True, threshold=0)` returns.

        Args:
            image_id: its id in the json.
            segmentation: one compressed RLE per instance, a dict of "size" [H, W] and "counts" (str).
            segments_info: one dict per instance with "label_id", the position of its category among the json's
                categories in ascending order of their ids, and "score".

        Raises:
            ValueError: the image is not in the json or was processed before, a label has no category, the two lists
                differ in length, or an RLE is not of the image's size.
        """
        self._check(image_id, segmentation, segments_info)
        self._processed.add(image_id)
        self.predictions += [
            {
                "image_id": image_id,
                "category_id": self._category_ids[info["label_id"]],
                "segmentation": dict(rle),
                "score": float(info["score"]),
            }
            for rle, info in zip(segmentation, segments_info, strict=True)
        ]

    def evaluate(self) -> dict[str, float]:
        """AP (mean over the IoU thresholds 0.50, 0.55 ... 0.95), AP50, AP75, APs, APm, APl by area, and AR, the recall
        at `max_detections`; all in [0, 1], NaN where the json has no such object."""
        precision, recall = self._accumulate()
        means = {f"AP{name}": _mean(precision[..., area, -1]) for name, area in _AREAS.items()}
        return {
            "AP": means.pop("AP"),
            "AP50": _mean(precision[0, ..., 0, -1]),
            "AP75": _mean(precision[5, ..., 0, -1]),
            **means,
            "AR": _mean(recall[..., 0, -1]),
        }

    def _accumulate(self) -> tuple[np.ndarray, np.ndarray]:
        """Precision (10 thresholds, 101 recalls, categories, 4 areas, 1) and recall (the same without recalls), -1
        where there is no object."""
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self._truth, self._load_predictions(), "segm")
            evaluation.params.maxDets = [self.max_detections]
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval["precision"], evaluation.eval["recall"]

    def _load_predictions(self):
        from pycocotools.coco import COCO

        if self.predictions:
            # A copy, because loadRes adds fields to what it is given.
            return self._truth.loadRes([dict(prediction) for prediction in self.predictions])
        nothing = COCO()  # loadRes fails on an empty list
        nothing.dataset = {**self._truth.dataset, "annotations": []}
        nothing.createIndex()
        return nothing

    def _check(self, image_id: int, segmentation: Sequence[Mapping], segments_info: Sequence[Mapping]):
        if image_id not in self._truth.imgs:
            raise ValueError(f"image_id {image_id} is not in the annotation file, which has {len(self._truth.imgs)}")
        if image_id in self._processed:
            raise ValueError(f"image_id {image_id} was processed before; its predictions would count twice")
        if len(segmentation) != len(segments_info):
            raise ValueError(
                f"image_id {image_id}: {len(segmentation)} masks, but {len(segments_info)} entries of segments_info"
            )
        image = self._truth.imgs[image_id]
        size = [image["height"], image["width"]]
        for rle, info in zip(segmentation, segments_info, strict=True):
            if not 0 <= info["label_id"] < len(self._category_ids):
                raise ValueError(
                    f"image_id {image_id}: label_id {info['label_id']} has no category; the annotation file has "
                    f"{len(self._category_ids)}"
                )
            if list(rle["size"]) != size:
                raise ValueError(f"image_id {image_id}: a mask is {list(rle['size'])}, but the image {size}")


def _mean(values: np.ndarray) -> float:
    """Mean over what exists; COCOeval marks the rest with -1."""
    existing = values[values > -1]
    return float(existing.mean()) if existing.size else float("nan")
