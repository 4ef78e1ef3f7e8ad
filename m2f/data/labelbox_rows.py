"""Labelbox's export: a json for each image, one in each line or all in a list
(https://docs.labelbox.com/reference/export-image-annotations)."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m2f.data.annotated_export import AnnotatedExport
from m2f.data.drawn_shapes import numbers, rectangle
from m2f.data.shape_dataset import Shape, ShapeImage, extent, field, in_place

_NAMES = ("external_id", "row_data", "global_key")
_BOX = ("left", "top", "width", "height")
_OTHERS = {"mask": "mask on Labelbox's server", "composite_mask": "mask on Labelbox's server"}


class LabelboxRows(AnnotatedExport):
    """A `SegmentationDataset` of Labelbox's rows: polygons and boxes.

    Masks are no part of the export but addresses on Labelbox's server, and no areas here. The image is looked for by
    the row's external id, and by the name in its address.

    Args:
        annotation_file: of the split.
        image_folder: of the images; where the file is by default.
        annotation: which label of a row counts, of all its projects: "only" refuses rows with several; "first" or
            "last".
        id2label: names of the classes; by default those of the objects of all splits, sorted.
        label_files: those of all splits, whose objects count where `id2label` is not given.
        split: name of the split.
        drop_others: leaves out masks, points and lines, which are errors otherwise.

    Raises:
        FileNotFoundError: no such file; for an item: no image.
        ValueError: not such a file; for an item: what `ShapeDataset` raises, or several labels.
    """

    format = "labelbox"

    @staticmethod
    def images_of(path: Path, choice: str) -> Iterator[ShapeImage]:
        return _images(path, choice)

    def draw(self, shape: Shape, size: tuple[int, int]) -> list[list[float]]:
        values = numbers(shape.geometry)
        if shape.kind == "polygon":
            return [values]
        left, top, width, height = values
        return [rectangle(left, top, left + width, top + height)]


def _images(path: Path, choice: str) -> Iterator[ShapeImage]:
    for number, row in enumerate(_rows(path), 1):
        where, names = f"{path}, row {number}", (f"row {number}",)
        try:
            data = field(row, "data_row", dict)
            names = tuple(data[key] for key in _NAMES if isinstance(data.get(key), str) and data[key]) or names
            where = f"{path}, image {names[0]}"
            objects = enumerate(_objects(row, choice))
            shapes = [in_place(f"object {i}", _shape, entry, i) for i, entry in objects]
            size = _size(field(row, "media_attributes", dict, {}))
        except ValueError as error:
            yield ShapeImage(names, where, None, [], f"{where}: {error}")
        else:
            yield ShapeImage(names, where, size, shapes)


def _rows(path: Path) -> list[Any]:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no such file: {path}")
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
        rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.split("\n") if line]
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no json of Labelbox's rows, one in each line: {error}") from error
    if not rows or not all(isinstance(row, dict) and "data_row" in row for row in rows):
        raise ValueError(f"{path} is no json of Labelbox's rows: dicts with data_row are needed")
    return rows


def _objects(row: dict, choice: str) -> list[Any]:
    """The objects of the label that counts."""
    projects = field(row, "projects", dict, {}).values()
    labels = [label for project in projects for label in field(project, "labels", list, [])]
    if len(labels) > 1 and choice == "only":
        raise ValueError(
            f"it has {len(labels)} labels; say which counts with --data-options annotation=first (or last)"
        )
    if not labels:
        return []
    return field(field(labels[0 if choice == "first" else -1], "annotations", dict, {}), "objects", list, [])


def _size(attributes: dict) -> tuple[int, int] | None:
    """(H, W) that the row says; None: it says none."""
    values = [attributes.get(key) for key in ("height", "width")]
    return None if None in values else (extent(values[0], "height"), extent(values[1], "width"))


def _shape(entry: Any, number: int) -> Shape:
    label, name = field(entry, "name", str), f"object {number}"
    if "polygon" in entry:
        points = [field({"point": point}, "point", dict) for point in field(entry, "polygon", list)]
        return Shape(name, label, "polygon", [point.get(key) for point in points for key in ("x", "y")])
    if "bounding_box" in entry:
        box = field(entry, "bounding_box", dict)
        return Shape(name, label, "box", [box.get(key) for key in _BOX])
    kind = next((kind for key, kind in _OTHERS.items() if key in entry), entry.get("annotation_kind"))
    return Shape(name, label, "", str(kind)[:40])
