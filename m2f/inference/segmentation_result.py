"""What is found in one image, at the image's own size: a list of segments, maps, a picture, other tools' formats."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from m2f.data.segment_map import NOTHING
from m2f.data.segment_overlay import distinct_colours, draw_segment_map
from m2f.inference.detection import Detection, boxes_of_ids, paint_ids
from m2f.inference.segment import Segment
from m2f.inference.segment_captions import draw_captions
from m2f.inference.task_decoding import MappedSegments, TaskSegments
from m2f.output_formats.coco_format import coco_polygons
from m2f.output_formats.cvat_format import cvat_mask, cvat_polygons
from m2f.output_formats.label_studio_format import IMAGE_TAG, LABEL_TAG, brush_result, polygon_result, prediction
from m2f.output_formats.labelme_format import labelme_content, labelme_shapes
from m2f.output_formats.mask_outlines import DEFAULT_TOLERANCE, Part, mask_parts, part_polygons
from m2f.output_formats.saved_image import SavedObject
from m2f.output_formats.yolo_format import yolo_line

# A picture is drawn in bands of so many pixels, as drawing needs 12 bytes and more for each of them.
_BAND_PIXELS = 1 << 23


class SegmentationResult:
    """The segments of one image.

    Args:
        image: upright, RGB.
        task: "panoptic", "instance" or "semantic". Segments overlap with "instance" alone.
        segments: best score first for "instance"; else ordered by id.
        id2label: name of each class.
        name: what messages and files call the image.
        ids: (H, W) id of each pixel, 0 where there is no segment; None where segments overlap.
    """

    def __init__(
        self,
        image: Image.Image,
        task: str,
        segments: Sequence[Segment],
        id2label: Mapping[int, str],
        name: str = "",
        ids: np.ndarray | None = None,
    ):
        self.image, self.task, self.name = image, task, name
        self.segments, self.id2label = list(segments), dict(id2label)
        self._ids = ids

    @classmethod
    def from_segments(
        cls, image: Image.Image, task: str, segments: TaskSegments, id2label: Mapping[int, str], name: str = ""
    ) -> "SegmentationResult":
        """Of what a task asks for."""
        if isinstance(segments, MappedSegments):
            return cls.from_map(image, task, segments.ids, segments.infos, id2label, name)
        return cls.from_detections(image, segments, id2label, name)

    @classmethod
    def from_detections(
        cls, image: Image.Image, detections: Sequence[Detection], id2label: Mapping[int, str], name: str = ""
    ) -> "SegmentationResult":
        """Of instances."""
        size = (image.height, image.width)
        segments = [
            Segment(
                id=number,
                label_id=detection.label_id,
                label=id2label[detection.label_id],
                score=detection.score,
                box=detection.box,
                area=detection.area,
                is_thing=True,
                size=size,
                _values=detection.pixels,
                _value=True,
            )
            for number, detection in enumerate(detections, start=1)
        ]
        return cls(image, "instance", segments, id2label, name)

    @classmethod
    def from_map(
        cls,
        image: Image.Image,
        task: str,
        ids: np.ndarray,
        infos: Sequence[Mapping[str, Any]],
        id2label: Mapping[int, str],
        name: str = "",
    ) -> "SegmentationResult":
        """Of a map of segments that do not overlap.

        Args:
            ids: (H, W) int32 of the image's size, 0 where there is no segment.
            infos: of each id: id, label_id, was_fused and score, as post-processing gives them.
        """
        highest = max((info["id"] for info in infos), default=0)
        boxes, areas = boxes_of_ids(ids, highest), np.bincount(ids.ravel(), minlength=highest + 1)
        segments = [
            Segment(
                id=info["id"],
                label_id=info["label_id"],
                label=id2label[info["label_id"]],
                score=info["score"],
                box=box,
                area=int(areas[info["id"]]),
                is_thing=not info["was_fused"],
                size=(image.height, image.width),
                _values=ids[box.slices],
                _value=info["id"],
            )
            for info in infos
            if (box := boxes[info["id"] - 1]) is not None
        ]
        return cls(image, task, segments, id2label, name, ids)

    def __len__(self) -> int:
        return len(self.segments)

    def __repr__(self) -> str:
        height, width = self.size
        return f"SegmentationResult({self.name or 'image'}, {height} x {width}, {self.task}, {len(self)} segments)"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.image.height, self.image.width

    @property
    def masks(self) -> np.ndarray:
        """(N, H, W) bool, in the order of `segments`. N * H * W bytes; `Segment.crop` is smaller."""
        return np.array([segment.mask for segment in self.segments], bool).reshape(-1, *self.size)

    @cached_property
    def id_map(self) -> np.ndarray:
        """(H, W) int32: `Segment.id` of each pixel, 0 where there is none; of overlapping segments the best score."""
        if self._ids is not None:
            return self._ids
        pieces = [Detection(s.label_id, s.score, s.box, s.crop) for s in self.segments]
        return paint_ids(self.size, pieces)

    @property
    def label_map(self) -> np.ndarray:
        """(H, W) int32: class of each pixel, -1 where there is no segment."""
        label_of = np.full(max((segment.id for segment in self.segments), default=0) + 1, NOTHING, np.int32)
        for segment in self.segments:
            label_of[segment.id] = segment.label_id
        return label_of[self.id_map]

    def plot(self, captions: bool | None = None, opacity: float = 0.45) -> Image.Image:
        """The image with its segments over it: a colour for each thing, for stuff one for each class.

        Args:
            captions: write label and score on each segment; None: on those that are large enough for it.
            opacity: of the colours, in [0, 1].
        """
        colours = self.colours()
        colour_of = np.zeros((int(self.id_map.max(initial=0)) + 1, 3), np.uint8)
        for segment, colour in zip(self.segments, colours, strict=True):
            if segment.id < len(colour_of):  # else it lies under others
                colour_of[segment.id] = colour
        picture = Image.new("RGB", self.image.size)
        step = max(1, _BAND_PIXELS // self.image.width)
        for top in range(0, self.image.height, step):
            bottom = min(top + step, self.image.height)
            # A row more on both sides, for the outlines.
            first, last = max(0, top - 1), min(bottom + 1, self.image.height)
            band = self.image.crop((0, first, self.image.width, last))
            # Layers hold ids from 0 on, and -1 where there is nothing.
            drawn = draw_segment_map(band, self.id_map[None, first:last] - 1, colour_of[1:], opacity)
            picture.paste(drawn.crop((0, top - first, self.image.width, bottom - first)), (0, top))
        if captions is not False:
            draw_captions(picture, self.segments, colours, everywhere=captions is True)
        return picture

    def colours(self) -> np.ndarray:
        """(N, 3) uint8 RGB of the segments: those of things differ, those of a stuff class are the same everywhere."""
        highest = max(self.id2label, default=0) + 1
        colours = distinct_colours(highest + len(self))
        # Things take the colours after those of the classes, so that none looks like stuff.
        chosen = [highest + i if s.is_thing else s.label_id for i, s in enumerate(self.segments)]
        return colours[chosen].reshape(-1, 3)

    def to_polygons(self, tolerance: float = DEFAULT_TOLERANCE) -> list[list[np.ndarray]]:
        """For each segment its polygons, one for each part, (N, 2) float x and y in pixels. Holes are kept, by a line
        that goes there and back; with a tolerance of 0 a polygon has the mask's pixels and no others.

        Args:
            tolerance: pixels that corners may be away from the line that leaves them out.

        Raises:
            ValueError: a tolerance below 0.
        """
        return [part_polygons(_parts(segment, tolerance)) for segment in self.segments]

    def to_coco(self, image_id: int | str = 0, tolerance: float | None = None) -> list[dict[str, Any]]:
        """The segments as COCO annotations, which are COCO results too (https://cocodataset.org/#format-results):
        image_id, category_id (the label id), segmentation (compressed RLE, or polygons), bbox [left, top, width,
        height], area of the mask, score and iscrowd (0). json can write them.

        Args:
            tolerance: polygons off by so many pixels, see `to_polygons`; None: RLE.

        Raises:
            ImportError: pycocotools is not installed.
            ValueError: a tolerance below 0.
        """
        return [
            {
                "image_id": image_id,
                "category_id": segment.label_id,
                "segmentation": segment.rle if tolerance is None else coco_polygons(_parts(segment, tolerance)),
                "bbox": [segment.box.left, segment.box.top, segment.box.width, segment.box.height],
                "area": segment.area,
                "score": segment.score,
                "iscrowd": 0,
            }
            for segment in self.segments
        ]

    def to_yolo(self, tolerance: float = DEFAULT_TOLERANCE) -> str:
        """The text file of YOLO's labels: a line for each segment, its class as its place in `id2label`. A line is one
        polygon, so that parts are joined by lines without width, as holes are."""
        number_of = {label: number for number, label in enumerate(sorted(self.id2label))}
        lines = [yolo_line(number_of[s.label_id], _parts(s, tolerance), self.size) for s in self.segments]
        return "".join(f"{line}\n" for line in lines)

    def to_labelme(self, image_path: str, tolerance: float = DEFAULT_TOLERANCE) -> dict[str, Any]:
        """The content of LabelMe's json.

        Args:
            image_path: relative to the json.
        """
        shapes = [labelme_shapes(s.label, s.score, _parts(s, tolerance), s.id) for s in self.segments]
        return labelme_content(image_path, self.size, [shape for found in shapes for shape in found])

    def to_label_studio(
        self, tolerance: float | None = None, from_name: str = LABEL_TAG, to_name: str = IMAGE_TAG
    ) -> dict[str, Any]:
        """A prediction of a Label Studio task: brush masks, or with a tolerance polygons.

        Args:
            from_name, to_name: of the tags in the labelling interface.
        """
        names = {"from_name": from_name, "to_name": to_name}
        if tolerance is None:
            return prediction([brush_result(_saved(s), self.size, s.id, **names) for s in self.segments])
        return prediction(
            [polygon_result(_saved(s), _parts(s, tolerance), self.size, s.id, **names) for s in self.segments]
        )

    def to_cvat(self, tolerance: float | None = None) -> str:
        """The elements of CVAT's xml for images, a line each: masks, or with a tolerance polygons."""
        if tolerance is None:
            return "\n".join(cvat_mask(_saved(segment)) for segment in self.segments)
        found = (cvat_polygons(_saved(s), _parts(s, tolerance), s.id) for s in self.segments)
        return "\n".join(element for elements in found for element in elements)

    def to_supervision(self) -> Any:
        """The segments as `supervision.Detections`, with `class_name` in its data.

        Raises:
            ImportError: the package supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise ImportError("to_supervision needs the package supervision: pip install supervision") from error
        segments = self.segments
        return Detections(
            xyxy=np.array([segment.box for segment in segments], np.float32).reshape(-1, 4),
            mask=self.masks,
            confidence=np.array([segment.score for segment in segments], np.float32),
            class_id=np.array([segment.label_id for segment in segments], int),
            data={"class_name": np.array([segment.label for segment in segments], str)},
        )


def _parts(segment: Segment, tolerance: float) -> list[Part]:
    return mask_parts(segment.crop, tolerance, segment.box.left, segment.box.top)


def _saved(segment: Segment) -> SavedObject:
    return SavedObject(segment.label_id, segment.label, segment.score, segment.box, segment.crop)
