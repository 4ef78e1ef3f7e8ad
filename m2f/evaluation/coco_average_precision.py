"""Average precision against a COCO instance json, as the official tools compute it from a results json."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from m2f.evaluation.coco_truth import CocoTruth
from m2f.evaluation.instance_average_precision import InstanceAveragePrecision


class CocoAveragePrecision(InstanceAveragePrecision):
    """`InstanceAveragePrecision` whose truth is a file. All of its images count, whether they are processed or not.

    Attributes:
        truth: the file's content.
        predictions: what was processed here, as COCO's results json has it.

    Args:
        annotation_file: the ground truth. A label is the position of its category among the file's categories in
            ascending order of their ids.
        max_detections, boundary, engine: see `InstanceAveragePrecision`.
    """

    def __init__(
        self,
        annotation_file: str | Path,
        max_detections: Sequence[int] = (1, 10, 100),
        boundary: bool = True,
        engine: str = "auto",
    ):
        self.truth = CocoTruth(annotation_file)
        super().__init__(self.truth.id2label, max_detections, boundary, engine)

    def reset(self):
        """Forget all predictions."""
        super().reset()
        self.predictions: list[dict] = []

    def process(  # type: ignore[override]  # one image, as post-processing gives it, where the others take a batch
        self, image_id: int, segmentation: Sequence[Mapping[str, Any]], segments_info: Sequence[Mapping]
    ):
        """Add the predictions of one image; the last two arguments are the entries of what
        `post_process_instance_segmentation(..., return_coco_annotation=True, threshold=0)` returns.

        Args:
            image_id: its id in the json.
            segmentation: one RLE for each instance.
            segments_info: one dict for each instance with "label_id" and "score".

        Raises:
            ValueError: the image is not in the json, a label has no category, the two lists differ in length, or an
                RLE is not of the image's size; nothing is kept then.
        """
        prediction = {"segmentation": segmentation, "segments_info": segments_info}
        images = len(self)
        super().process([prediction], [self.truth.target(image_id)], [image_id])
        if len(self) > images:  # else it was there before
            self.predictions += self.truth.results(image_id, prediction)

    def _completed(self, records: dict[Hashable, Any]) -> dict[Hashable, Any]:
        nothing: dict[str, list] = {"segmentation": [], "segments_info": []}
        missing = [image_id for image_id in self.truth.image_ids if image_id not in records]
        return records | {image_id: self._count(nothing, self.truth.target(image_id)) for image_id in missing}
