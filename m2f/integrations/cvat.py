"""An automatic annotation function for CVAT (https://docs.cvat.ai/docs/api_sdk/sdk/auto-annotation/), for the program
`cvat-cli task auto-annotate --function-module m2f.integrations.cvat` and for `cvat_sdk.auto_annotation.annotate_task`.
"""

from collections.abc import Iterator
from typing import Any, cast

from PIL import Image

from m2f.inference.segment import Segment
from m2f.inference.segmentation_result import SegmentationResult
from m2f.inference.segmenter import Segmenter
from m2f.output_formats.cvat_format import box_runs
from m2f.output_formats.mask_outlines import DEFAULT_TOLERANCE, check_tolerance, mask_parts, part_polygons
from m2f.output_formats.saved_image import polygon_numbers


class CvatFunction:
    """Finds the objects of an image as masks, or as polygons where CVAT asks for these.

    Args:
        checkpoint, task, device: see `Segmenter.from_pretrained`.
        threshold: see `Segmenter`; CVAT's own threshold leaves out more, and none below this one.
        tile: see `Segmenter`.
        tolerance: of polygons, in pixels; parts of an object are polygons of one group.

    Raises:
        ImportError: cvat-sdk is not installed.
        OSError, ValueError: see `Segmenter.from_pretrained`.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        task: str | None = None,
        device: str | None = None,
        threshold: float | None = None,
        tile: int | None = None,
        tolerance: float = DEFAULT_TOLERANCE,
    ):
        from cvat_sdk import auto_annotation

        check_tolerance(tolerance)
        self.segmenter = Segmenter.from_pretrained(checkpoint, task, device, threshold=threshold, tile=tile)
        self.tolerance = tolerance
        names = self.segmenter.id2label
        labels = [auto_annotation.label_spec(name, label, type="mask") for label, name in names.items()]
        self.spec = auto_annotation.DetectionFunctionSpec(labels=labels)

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """The shapes in an image.

        Args:
            context: a `DetectionFunctionContext`.
        """
        result = cast(SegmentationResult, self.segmenter(image))
        lowest = context.conf_threshold or 0
        segments = [segment for segment in result.segments if segment.score >= lowest]
        draw = self._polygons if context.conv_mask_to_poly else _masks
        return [shape for segment in segments for shape in draw(segment)]

    def _polygons(self, segment: Segment) -> Iterator[Any]:
        from cvat_sdk.auto_annotation import polygon

        parts = mask_parts(segment.crop, self.tolerance, segment.box.left, segment.box.top)
        more: dict[str, Any] = {"group": segment.id} if len(parts) > 1 else {}
        for points in part_polygons(parts):
            numbers = [float(number) for number in polygon_numbers(points)]
            yield polygon(segment.label_id, numbers, score=segment.score, **more)


def _masks(segment: Segment) -> Iterator[Any]:
    from cvat_sdk.auto_annotation import mask

    left, top, right, bottom = segment.box
    runs = (*box_runs(segment.crop), left, top, right - 1, bottom - 1)
    yield mask(segment.label_id, [float(run) for run in runs], score=segment.score)


create = CvatFunction  # as cvat-cli calls it
