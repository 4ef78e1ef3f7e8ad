"""Mean intersection over union of semantic maps, and pixel accuracy, from a confusion matrix.

Source: IoU as in the PASCAL VOC challenge (Everingham et al., IJCV 2010, section 4.3); the other numbers as in Long et
al., Fully Convolutional Networks, CVPR 2015, section 5. The confusion matrix of an image is one `np.bincount`; a
library would put a dependency in the place of that line.
"""

from typing import Any, NamedTuple

import numpy as np

from m2f.evaluation.index_maps import as_array, flatten_layers, layers_of
from m2f.evaluation.streaming_metric import StreamingMetric
from m2f.image_processing.label_values import IGNORE_INDEX, IGNORED, NOTHING


class _Pixels(NamedTuple):
    """The entries of an image's confusion matrix that are not 0."""

    cells: np.ndarray  # (M,) int32: (true class) * (K + 1) + (predicted class), where K means no class
    counts: np.ndarray  # (M,) int64 pixels


class SemanticIoU(StreamingMetric):
    """mIoU, IoU of each class, frequency-weighted IoU, pixel accuracy and mean accuracy.

    Which classes count: one that is in neither the truth nor the predictions of any image has no IoU and is left out
    of the mean; one that is predicted and nowhere true has IoU 0. So do Hugging Face's `evaluate` ("mean_iou"), which
    transformers' examples use, and mmsegmentation. detectron2 leaves the latter class out too, which gives a higher
    mean on a small set of images. The accuracies are over classes that are in the truth.

    A prediction is an (H, W) map of class ids, array or tensor, or an object with such a `segmentation`
    (`post_process_semantic_segmentation` gives both); a value below 0 is no class, which is wrong everywhere.

    A target is an (H, W) map of class ids, or an object with `ids` (G, H, W) and `class_ids` (N,) such as
    `SegmentMap`. Ignored pixels (`ignore_index` in a map, -2 in `ids`) do not count at all. Pixels without a segment
    (-1 in `ids`) are known to be none of the classes: whatever is predicted there is wrong, but they are no part of
    the accuracies.

    Args:
        id2label: see `StreamingMetric`.
        ignore_index: value of ignored pixels in target maps; None ignores nothing.
    """

    def __init__(self, id2label: dict[int, str], ignore_index: int | None = IGNORE_INDEX):
        self.ignore_index = ignore_index
        super().__init__(id2label)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "ignore_index": self.ignore_index}

    def _count(self, prediction: Any, target: Any) -> _Pixels:
        predicted = as_array(getattr(prediction, "segmentation", prediction), "prediction")
        true = self._true_classes(target)
        if predicted.shape != true.shape:
            raise ValueError(f"the prediction is {predicted.shape}, but the target {true.shape} (height, width)")
        counted = true != IGNORED
        size = self.num_labels + 1
        for name, classes in (("prediction", predicted), ("target", true[counted])):
            if classes.size and classes.max() >= self.num_labels:
                raise ValueError(f"the {name} holds class {classes.max()}, but id2label has {self.num_labels}")
        # -1, no class, becomes the last row and the last column.
        rows, columns = true[counted] % size, np.maximum(predicted[counted].astype(np.int64), -1) % size
        counts = np.bincount(rows * size + columns, minlength=size * size)
        present = counts.nonzero()[0]
        return _Pixels(present.astype(np.int32), counts[present])

    def _true_classes(self, target: Any) -> np.ndarray:
        """(H, W) class ids, `NOTHING` or `IGNORED`."""
        if hasattr(target, "ids") and hasattr(target, "class_ids"):
            ids, class_ids = layers_of(target)
            # -2 and -1 count from the end.
            return flatten_layers(np.append(class_ids, [IGNORED, NOTHING])[ids])
        true = as_array(target, "target").astype(np.int64)
        ignored = true == self.ignore_index
        if (true[~ignored] < 0).any():
            raise ValueError(
                f"the target holds {true[~ignored].min()}, which is no class and not the ignore_index "
                f"{self.ignore_index}"
            )
        return np.where(ignored, IGNORED, true)

    def _summarize(self, records: list[_Pixels]) -> tuple[dict[str, float], list[dict[str, Any]]]:
        size = self.num_labels + 1
        cells = np.zeros(size * size, np.int64)
        for record in records:
            cells[record.cells] += record.counts
        confusion = cells.reshape(size, size)
        hits = confusion.diagonal()[:-1]
        true, predicted = confusion[:-1].sum(1), confusion[:, :-1].sum(0)
        iou, accuracy = _ratio(hits, true + predicted - hits), _ratio(hits, true)
        results = {
            "mIoU": _mean(iou),
            "fwIoU": float(np.nansum(iou * true) / true.sum()) if true.any() else float("nan"),
            "mACC": _mean(accuracy),
            "pACC": float(hits.sum() / true.sum()) if true.any() else float("nan"),
        }
        columns = {"IoU": iou, "ACC": accuracy, "true_pixels": true, "predicted_pixels": predicted}
        return results, self._named_rows({name: column.tolist() for name, column in columns.items()})


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
