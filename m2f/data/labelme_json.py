"""LabelMe's annotations: a json beside each image (https://github.com/wkentaro/labelme)."""

import base64
import binascii
import math
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m2f.data.coco_json import read_json
from m2f.data.dataset_paths import files_with
from m2f.data.drawn_shapes import ellipse, flat_points, numbers, placed_mask, rectangle
from m2f.data.image_finder import ImageFinder
from m2f.data.label_maps import read_label_map
from m2f.data.shape_dataset import Shape, ShapeDataset, ShapeImage, extent, field, labels_of

# An oriented rectangle has four points; X-AnyLabeling, which writes these files too, calls it "rotation".
_AREAS = {
    "polygon": "polygon",
    "oriented_rectangle": "polygon",
    "rotation": "polygon",
    "rectangle": "rectangle",
    "circle": "circle",
    "mask": "mask",
}
_IGNORED_LABEL = "__ignore__"  # of LabelMe's own converters


class LabelMe(ShapeDataset):
    """A `SegmentationDataset` of LabelMe's json files: polygons, rectangles, circles and masks.

    Shapes with the same label and group_id are one object. Those with the label "__ignore__" are `IGNORED`. The image
    is the file that "imagePath" names, below `image_folder`; the copy in "imageData" is never read.

    Args:
        folder: of the json files of the split.
        image_folder: of the images; where the json files are by default.
        id2label: names of the classes; by default the labels of all splits, sorted.
        label_folders: those of all splits, whose labels count where `id2label` is not given.
        split: name of the split.
        drop_others: leaves out points and lines, which are errors otherwise.

    Raises:
        FileNotFoundError: no such folder; for an item: no image.
        ValueError: no such json in it; for an item: what `ShapeDataset` raises, or a json that is not LabelMe's.
    """

    format = "labelme"
    ignored_label = _IGNORED_LABEL

    def __init__(
        self,
        folder: str | Path,
        image_folder: str | Path | None = None,
        id2label: Mapping[int, str] | Sequence[str] | None = None,
        label_folders: Iterable[str | Path] = (),
        split: str = "train",
        drop_others: bool = False,
    ):
        images = list(_read_folder(Path(folder)))
        if id2label is None:
            others = [image for path in {*map(Path, label_folders)} - {Path(folder)} for image in _read_folder(path)]
            id2label = [label for label in labels_of([*images, *others]) if label != _IGNORED_LABEL]
        super().__init__(images, id2label, ImageFinder(image_folder or folder), split, drop_others)

    def draw(self, shape: Shape, size: tuple[int, int]) -> list[list[float]] | np.ndarray:
        if shape.kind == "mask":
            text, points = shape.geometry
            return _mask(text, points, size)
        flat = flat_points(shape.geometry)
        if shape.kind == "circle":
            x, y, edge_x, edge_y = numbers(flat, 4)  # the centre, and a point of the circle
            radius = math.hypot(edge_x - x, edge_y - y)
            return [ellipse(x, y, radius, radius)]
        # X-AnyLabeling writes all four corners.
        return [flat if shape.kind == "polygon" or len(flat) == 8 else rectangle(*numbers(flat, 4))]


def is_labelme(content: Any) -> bool:
    """Whether the content of a json is of LabelMe."""
    return isinstance(content, dict) and "shapes" in content and "imagePath" in content


def _read_folder(folder: Path) -> Iterable[ShapeImage]:
    for name in files_with(folder, (".json",)):
        image = _read_file(folder / name, name)
        if image is not None:
            yield image


def _read_file(path: Path, name: str) -> ShapeImage | None:
    """None: a json of something else."""
    stem = name.rpartition(".")[0]
    try:
        content = read_json(path)
        if not is_labelme(content):
            return None
        image_path = field(content, "imagePath", str).replace("\\", "/")
        beside = posixpath.normpath(posixpath.join(posixpath.dirname(name), image_path))
        names = (beside, image_path)
        shapes = [_shape(entry, number) for number, entry in enumerate(field(content, "shapes", list))]
        size = content.get("imageHeight"), content.get("imageWidth")
        known = None if None in size else (extent(size[0], "imageHeight"), extent(size[1], "imageWidth"))
    except ValueError as error:
        problem = str(error) if str(path) in str(error) else f"{path}: {error}"
        return ShapeImage((stem,), str(path), None, [], problem)
    return ShapeImage(names, str(path), known, shapes)


def _shape(entry: Any, number: int) -> Shape:
    try:
        label, kind = field(entry, "label", str), field(entry, "shape_type", str, "polygon")
        if not label.strip():
            raise ValueError("its label is empty")
        group, points = entry.get("group_id"), field(entry, "points", list)
        if kind not in _AREAS:
            return Shape(f"shape {number}", label, "", kind)
        geometry = [field(entry, "mask", str), points] if kind == "mask" else points
    except ValueError as error:
        raise ValueError(f"shape {number}: {error}") from error
    return Shape(f"shape {number}", label, _AREAS[kind], geometry, group)


def _mask(text: str, points: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of a base64 PNG that covers a box, whose last row and column belong to it."""
    x0, y0, x1, y1 = (int(value) for value in numbers(flat_points(points), 4))
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the mask is no base64: {error}") from error
    mask = read_label_map(content, "the mask")
    if mask.shape not in ((y1 - y0 + 1, x1 - x0 + 1), (y1 - y0, x1 - x0)):
        raise ValueError(
            f"the mask is {mask.shape[0]} x {mask.shape[1]} (height x width), but its box goes from {x0}, {y0} to "
            f"{x1}, {y1}"
        )
    return placed_mask(mask, x0, y0, size)
