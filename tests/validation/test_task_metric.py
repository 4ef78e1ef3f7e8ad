import pytest
from shapes_dataset import ShapesDataset

from m2f.evaluation.instance_average_precision import InstanceAveragePrecision
from m2f.evaluation.panoptic_quality import PanopticQuality
from m2f.evaluation.semantic_iou import SemanticIoU
from m2f.validation.task_metric import make_metric


@pytest.mark.parametrize(
    ("task", "kind"),
    [("panoptic", PanopticQuality), ("instance", InstanceAveragePrecision), ("semantic", SemanticIoU)],
)
def test_the_metric_is_that_of_the_task_and_by_default_of_the_labels(task, kind):
    assert type(make_metric(ShapesDataset(1, task))) is kind
    assert type(make_metric(ShapesDataset(1, "panoptic"), task)) is kind


def test_an_unknown_task():
    with pytest.raises(ValueError, match="'depth'.*panoptic, instance, semantic"):
        make_metric(ShapesDataset(1), "depth")


def test_things_are_those_of_the_dataset():
    assert make_metric(ShapesDataset(1, "panoptic")).thing_label_ids == [0, 1]
    assert make_metric(ShapesDataset(1, "instance"), "panoptic").thing_label_ids == [0, 1, 2]  # None: all


@pytest.mark.parametrize(("most", "levels"), [(100, (1, 10, 100)), (5, (1, 5)), (10, (1, 10)), (1, (1,))])
def test_recall_levels_below_the_number_of_detections_stay(most, levels):
    """COCO's 1 and 10, where they are fewer than all."""
    assert make_metric(ShapesDataset(1), "instance", most).max_detections == levels
