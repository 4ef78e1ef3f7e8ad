"""Label Studio's tasks with predictions (https://labelstud.io/guide/predictions): brush masks, which are exact, or
polygons in per cent of the image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from m2f.data.brush_runs import brush_bytes
from m2f.output.safe_text import xml_text
from m2f.output_formats.format_writer import FormatWriter, ListWriter
from m2f.output_formats.mask_outlines import Part, whole_polygon
from m2f.output_formats.saved_image import Outliner, SavedImage, SavedObject

MODEL_VERSION = "m2f"
LABEL_TAG, IMAGE_TAG = "label", "image"  # as label_config.xml calls them


class LabelStudioBrush(FormatWriter):
    """`tasks.json`, for Import, and `label_config.xml`, for the labelling interface of the project. Images are read
    from Local Files, of which the folder is the root."""

    kind = "brushlabels"

    def __init__(self, folder: Path, id2label: Mapping[int, str], outliner: Outliner):
        super().__init__(folder, id2label, outliner)
        self._list = ListWriter(folder / "tasks.json")

    def add(self, image: SavedImage):
        results = [self.result(entry, image.size, number) for number, entry in enumerate(image.objects, start=1)]
        address = f"/data/local-files/?d={quote(f'{self.image_folder}/{image.file_name}')}"
        self._list.add({"data": {IMAGE_TAG: address}, "predictions": [prediction(results)]})

    def finish(self):
        self._list.finish()
        tag = "BrushLabels" if self.kind == "brushlabels" else "PolygonLabels"
        self.write_text("label_config.xml", label_config(self.id2label.values(), tag))

    def close(self):
        self._list.close()

    def result(self, entry: SavedObject, size: tuple[int, int], number: int) -> dict[str, Any]:
        return brush_result(entry, size, number)


class LabelStudioPolygons(LabelStudioBrush):
    """The same with polygons. A region is one polygon, so that parts are joined as holes are."""

    kind = "polygonlabels"
    parts_are = "joined by a line without width, as a region is one polygon"

    def result(self, entry: SavedObject, size: tuple[int, int], number: int) -> dict[str, Any]:
        return polygon_result(entry, self.outliner.parts(entry), size, number)


def prediction(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of a task; its score is the mean of its regions', and 0 without any."""
    score = fmean(result["score"] for result in results) if results else 0.0
    return {"model_version": MODEL_VERSION, "score": score, "result": list(results)}


def brush_result(entry: SavedObject, size: tuple[int, int], number: int, **names: str) -> dict[str, Any]:
    """A region of brush strokes.

    Args:
        size: (height, width) of the image.
        number: of the object in its image.
        names: from_name and to_name, where the tags of the labelling interface are called otherwise.
    """
    value = {"format": "rle", "rle": list(brush_bytes(entry.mask(size)))}
    return _result("brushlabels", value, entry, size, number, names)


def polygon_result(
    entry: SavedObject, parts: Sequence[Part], size: tuple[int, int], number: int, **names: str
) -> dict[str, Any]:
    """A region that is a polygon; for the arguments see `brush_result`."""
    points = whole_polygon(parts) * (100 / np.array([size[1], size[0]]))
    return _result("polygonlabels", {"points": points.tolist(), "closed": True}, entry, size, number, names)


def label_config(labels: Any, tag: str) -> str:
    """The xml of a labelling interface."""
    values = "".join(f"    <Label value={quoteattr(xml_text(label))}/>\n" for label in labels)
    return (
        f'<View>\n  <Image name="{IMAGE_TAG}" value="${IMAGE_TAG}" zoom="true"/>\n'
        f'  <{tag} name="{LABEL_TAG}" toName="{IMAGE_TAG}">\n{values}  </{tag}>\n</View>\n'
    )


def _result(
    kind: str, value: dict[str, Any], entry: SavedObject, size: tuple[int, int], number: int, names: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "id": f"m2f-{number}",
        "type": kind,
        "from_name": LABEL_TAG,
        "to_name": IMAGE_TAG,
        "original_width": size[1],
        "original_height": size[0],
        "image_rotation": 0,
        "score": entry.score,
        "value": {**value, kind: [xml_text(entry.label)]},
        **names,
    }
