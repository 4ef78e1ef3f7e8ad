"""Label Studio's json export of tasks (https://labelstud.io/guide/export, "JSON"): polygons, boxes, ellipses in per
cent of the image, and brush masks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from m2f.data.annotated_export import AnnotatedExport
from m2f.data.brush_runs import brush_mask
from m2f.data.coco_json import read_json
from m2f.data.drawn_shapes import ellipse, flat_points, numbers
from m2f.data.shape_dataset import Shape, ShapeImage, extent, field, in_place

# Type of a result -> the numbers of its value; all but brushes are in per cent.
_AREAS = {
    "polygonlabels": (),
    "rectanglelabels": ("x", "y", "width", "height", "rotation"),
    "ellipselabels": ("x", "y", "radiusX", "radiusY", "rotation"),
    "brushlabels": (),
}
# Type of an outline -> the key that only it has, an ellipse's before those of a box.
_OUTLINES = {"polygon": "points", "brush": "rle", "ellipse": "radiusX", "rectangle": "width"}
_RESULT_KEYS = ("annotations", "completions")  # "completions" before version 1


class LabelStudio(AnnotatedExport):
    """A `SegmentationDataset` of Label Studio's tasks.

    Shapes are drawn on the image as it is shown, upright. The image is looked for by the file name in the task's data,
    for which uploads count too, see `uploaded_names`.

    Args:
        annotation_file: json of the split, a list of tasks.
        image_folder: of the images; where the json is by default.
        annotation: which annotation of a task counts: "only" refuses tasks with several, "first", "last". Cancelled
            (skipped) ones never do.
        id2label: names of the classes; by default the labels of all splits, sorted.
        label_files: those of all splits, whose labels count where `id2label` is not given.
        split: name of the split.
        drop_others: leaves out key points, lines and others that are no areas, which are errors otherwise.

    Raises:
        FileNotFoundError: no such file; for an item: no image.
        ValueError: not such a json; for an item: what `ShapeDataset` raises, or several annotations.
    """

    format = "label-studio"

    @staticmethod
    def images_of(path: Path, choice: str) -> Iterator[ShapeImage]:
        return _images(path, choice)

    def draw(self, shape: Shape, size: tuple[int, int]) -> list[list[float]] | np.ndarray:
        if shape.kind == "brushlabels":
            return brush_mask(shape.geometry, size)
        scale = np.array(size[::-1]) / 100
        if shape.kind == "polygonlabels":
            return [(np.reshape(flat_points(shape.geometry), (-1, 2)) * scale).ravel().tolist()]
        values = numbers(shape.geometry)
        x, y, width, height = (np.reshape(values[:4], (2, 2)) * scale).ravel().tolist()
        if shape.kind == "ellipselabels":
            return [ellipse(x, y, width, height, values[4])]
        # A box turns around its upper left corner.
        turn = np.radians(values[4])
        across, down = width * np.array([np.cos(turn), np.sin(turn)]), height * np.array([-np.sin(turn), np.cos(turn)])
        return [np.ravel([[x, y] + side for side in (0 * across, across, across + down, down)]).tolist()]


def is_label_studio(content: Any) -> bool:
    """Whether the content of a json is an export of tasks."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(
            isinstance(task, dict) and isinstance(task.get("data"), dict) and any(key in task for key in _RESULT_KEYS)
            for task in content
        )
    )


def _images(path: Path, choice: str) -> Iterator[ShapeImage]:
    content = read_json(path)
    if not is_label_studio(content):
        raise ValueError(
            f"{path} is no json of Label Studio's tasks: a list of dicts with data and annotations is needed (export "
            "as JSON, not as JSON-MIN)"
        )
    for number, task in enumerate(content):
        where = f"{path}, task {task.get('id', number)}"
        try:
            names, results = _names(task), _results(task, choice)
            shapes, size = list(_shapes(results)), _size(results)
        except ValueError as error:
            yield ShapeImage((f"task {number}",), where, None, [], f"{where}: {error}")
        else:
            yield ShapeImage(names, where, size, shapes)


def _names(task: dict) -> tuple[str, ...]:
    """What the image's file may be called."""
    texts = [value for value in task["data"].values() if isinstance(value, str) and "." in value]
    first = task["data"].get("image", texts[0] if texts else None)
    if not isinstance(first, str) or not first:
        raise ValueError("its data name no image")
    # Files that the server reads itself are /data/local-files/?d=folder/name.
    local = parse_qs(urlsplit(first).query).get("d", [""])[0] if "local-files" in first else ""
    return (local or first, *([task["file_upload"]] if isinstance(task.get("file_upload"), str) else []))


def _results(task: dict, choice: str) -> list[Any]:
    key = next(key for key in _RESULT_KEYS if key in task)
    kept = [entry for entry in field(task, key, list) if not (isinstance(entry, dict) and entry.get("was_cancelled"))]
    if len(kept) > 1 and choice == "only":
        raise ValueError(
            f"it has {len(kept)} annotations; say which counts with --data-options annotation=first (or last)"
        )
    return field(kept[0 if choice == "first" else -1], "result", list) if kept else []


def _shapes(results: list[Any]) -> Iterator[Shape]:
    """The shapes; what is about the whole image or other results, such as choices and relations, is none."""
    labelled = [entry.get("id") for entry in results if _kind(entry).endswith("labels")]
    for number, result in enumerate(results):
        kind = _kind(result)
        if kind.endswith("labels"):
            yield in_place(f"result {number}", _shape, result, kind, number)
        elif kind in _OUTLINES and result.get("id") not in labelled:
            raise ValueError(f"result {number} is a {kind} without a label")


def _kind(result: Any) -> str:
    """The type of a result; of one by a tag "Labels", which stands beside the outline's, what its outline tells."""
    kind = field(result, "type", str)
    value = result.get("value")
    if kind != "labels" or not isinstance(value, dict):
        return kind
    return next((outline + "labels" for outline, key in _OUTLINES.items() if key in value), kind)


def _shape(result: Any, kind: str, number: int) -> Shape:
    value, name = field(result, "value", dict), str(result.get("id", number))[:80]
    labels = field(value, "labels" if result["type"] == "labels" else kind, list)
    if len(labels) != 1 or not isinstance(labels[0], str):
        raise ValueError(f"it has {len(labels)} labels; one is needed")
    if kind not in _AREAS:
        return Shape(name, labels[0], "", kind)
    if kind == "polygonlabels":
        return Shape(name, labels[0], kind, field(value, "points", list))
    if kind != "brushlabels":
        return Shape(name, labels[0], kind, [value.get(key, 0) for key in _AREAS[kind]])
    codes = field(value, "rle", list)
    if not all(type(code) is int and 0 <= code < 256 for code in codes):
        raise ValueError("the brush mask has other values than bytes of 0 to 255")
    return Shape(name, labels[0], kind, bytes(codes))


def _size(results: list[Any]) -> tuple[int, int] | None:
    """(H, W) that the results say; None: there are none that do."""
    sizes = {
        (extent(entry["original_height"], "original_height"), extent(entry.get("original_width"), "original_width"))
        for entry in results
        if "original_height" in entry
    }
    if len(sizes) > 1:
        raise ValueError(f"its results are for images of different sizes (height, width): {sorted(sizes)[:3]}")
    return next(iter(sizes), None)
