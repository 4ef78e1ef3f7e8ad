"""One task of an evaluation: from the outputs of a model to its predictions, and from these to numbers and files."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import ModelOutput

from m2f.data.segment_map import Sample
from m2f.evaluation.streaming_metric import StreamingMetric
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.inference.task_decoding import TaskDecoder
from m2f.validation.evaluation_batches import TestTimeView
from m2f.validation.task_metric import MAX_INSTANCES


def measuring_decoder(
    processor: M2FImageProcessor, task: str, lowest_score: float = 0, max_instances: int | None = MAX_INSTANCES
) -> TaskDecoder:
    """Post-processing for a metric: panoptic segments by the processor's threshold, and instances of every score.

    Args:
        lowest_score: of an instance that is predicted.
        max_instances: of an image that are predicted; None: as many as queries, at least 100.
    """
    return TaskDecoder(processor, task, lowest_score if task == "instance" else None, max_detections=max_instances)


@dataclass
class TaskMeasurement:
    """A task, its metric, and what lies between them.

    Args:
        decoder: of the task.
        metric: of the task.
        truth: from an image's index and sample to the metric's target; by default the sample's labels.
        image_id: from an image's index to its id in the metric; by default the index.
        labels: the dataset's label of each label of the model, -1 where it has none; None where they are the same.
        record: called with the index, the sample and the prediction of each image; writes it to a file.
    """

    decoder: TaskDecoder
    metric: StreamingMetric
    truth: Callable[[int, Sample], Any] = lambda index, sample: sample.segments
    image_id: Callable[[int], Hashable] = lambda index: index
    labels: Sequence[int] | None = None
    record: Callable[[int, Sample, Any], None] | None = None

    @property
    def task(self) -> str:
        """One of "panoptic", "instance" and "semantic"."""
        return self.decoder.task

    def predictions(self, outputs: ModelOutput, sizes: Sequence[tuple[int, int]]) -> list:
        """What post-processing gives for each image, in the dataset's labels."""
        return [self.relabelled(prediction) for prediction in self.decoder.predictions(outputs, sizes)]

    def predictions_of_views(
        self, outputs: Iterable[ModelOutput], views: Sequence[TestTimeView], sizes: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """Semantic maps of the mean score over several views, in the dataset's labels."""
        return [self.relabelled(prediction) for prediction in average_views(self.decoder, outputs, views, sizes)]

    def count(self, index: int, sample: Sample, prediction: Any):
        """Compare the prediction for an image with the truth, and record it."""
        self.metric.process([prediction], [self.truth(index, sample)], [self.image_id(index)])
        if self.record:
            self.record(index, sample, prediction)

    def relabelled(self, prediction: Any) -> Any:
        """What post-processing gives for an image, in the dataset's labels."""
        if self.labels is None:
            return prediction
        if self.task == "semantic":
            return torch.as_tensor(np.asarray(self.labels), device=prediction.device)[prediction]
        infos = [{**info, "label_id": self.labels[info["label_id"]]} for info in prediction["segments_info"]]
        if self.task == "panoptic":
            return {**prediction, "segments_info": infos}
        # A model that knows more things than the dataset has: what it finds of the others is no answer to anything.
        kept = [position for position, info in enumerate(infos) if info["label_id"] >= 0]
        return {
            "segmentation": [prediction["segmentation"][position] for position in kept],
            "segments_info": [infos[position] for position in kept],
        }


def average_views(
    decoder: TaskDecoder,
    outputs: Iterable[ModelOutput],
    views: Sequence[TestTimeView],
    sizes: Sequence[tuple[int, int]],
) -> list[Tensor]:
    """The (H, W) map of each image from the mean of its class scores over several views, each at the image's size.

    Source: SemanticSegmentorWithTTA of the original (mask2former/test_time_augmentation.py). Departure: it resizes
    the image that was resized for a single view once more; here each view is made from the image itself.

    Args:
        outputs: of the model for each view of a batch; read one at a time.
        views: in the same order.
        sizes: (height, width) of each image.
    """
    totals: list[Tensor] = []
    for view, output in zip(views, outputs, strict=True):
        scores = decoder.scores_of_batch(output, sizes)
        scores = [score.flip(-1) if view.flipped else score for score in scores]
        totals = [total + score for total, score in zip(totals, scores, strict=True)] if totals else scores
    return [total.argmax(0) for total in totals]  # of the sum as of the mean
