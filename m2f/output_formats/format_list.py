"""The formats that results are saved in, by name."""

from collections.abc import Mapping
from pathlib import Path

from m2f.output_formats.coco_format import CocoPanoptic, CocoPolygons, CocoRunLengths
from m2f.output_formats.cvat_format import CvatMasks, CvatPolygons
from m2f.output_formats.datumaro_format import DatumaroMasks
from m2f.output_formats.format_writer import FormatWriter
from m2f.output_formats.label_map_format import SemanticMaps
from m2f.output_formats.label_studio_format import LabelStudioBrush, LabelStudioPolygons
from m2f.output_formats.labelme_format import LabelMePolygons
from m2f.output_formats.saved_image import Outliner
from m2f.output_formats.yolo_format import YoloPolygons

FORMATS: dict[str, type[FormatWriter]] = {
    "coco-rle": CocoRunLengths,
    "coco-polygons": CocoPolygons,
    "yolo": YoloPolygons,
    "labelme": LabelMePolygons,
    "label-studio": LabelStudioBrush,
    "label-studio-polygons": LabelStudioPolygons,
    "cvat": CvatMasks,
    "cvat-polygons": CvatPolygons,
    "datumaro": DatumaroMasks,
    "semantic-png": SemanticMaps,
    "panoptic-png": CocoPanoptic,
}


def format_writer(
    name: str, folder: Path, id2label: Mapping[int, str], things: frozenset[int], tolerance: float
) -> FormatWriter:
    """The writer of a format into an empty folder.

    Args:
        id2label: name of each class.
        things: the classes that are things.
        tolerance: of polygons, in pixels.
    """
    outliner = Outliner(tolerance)
    if name == "panoptic-png":
        return CocoPanoptic(folder, id2label, outliner, things)
    return FORMATS[name](folder, id2label, outliner)
