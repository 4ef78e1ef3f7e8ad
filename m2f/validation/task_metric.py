"""The usual metric of each task."""

from m2f.data.segmentation_dataset import SegmentationDataset, thing_labels
from m2f.evaluation.instance_average_precision import InstanceAveragePrecision
from m2f.evaluation.panoptic_quality import PanopticQuality
from m2f.evaluation.semantic_iou import SemanticIoU
from m2f.evaluation.streaming_metric import StreamingMetric

# Results that may decide which model is best, the usual one first.
METRICS = {
    "panoptic": ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st"),
    "instance": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"),
    "semantic": ("mIoU", "fwIoU", "mACC", "pACC"),
}
# What average precision has always taken of an image; see InstanceAveragePrecision.
MAX_INSTANCES = 100
# Of one in tiles: tiles are for images with many objects, and each gives as many as a whole image.
MAX_TILED_INSTANCES = 1000
_RECALL_LEVELS = (1, 10)  # COCO's own numbers of detections, beside the largest one


def make_metric(
    dataset: SegmentationDataset, task: str | None = None, max_detections: int = MAX_INSTANCES, boundary: bool = False
) -> StreamingMetric:
    """The usual metric of a task, by default of the dataset's own.

    Args:
        max_detections: instances of an image and class that count.
        boundary: whether to compute boundary AP too.

    Raises:
        ValueError: an unknown task.
    """
    task = dataset.task if task is None else task
    if task == "panoptic":
        return PanopticQuality(dataset.id2label, thing_labels(dataset))
    if task == "instance":
        levels = [level for level in _RECALL_LEVELS if level < max_detections]
        return InstanceAveragePrecision(dataset.id2label, (*levels, max_detections), boundary)
    if task == "semantic":
        return SemanticIoU(dataset.id2label)
    raise ValueError(f"task is {task!r}; it must be one of {', '.join(METRICS)}")
