"""CVAT's own format for images, 1.1: one xml with polygons, masks, boxes and ellipses
(https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from m2f.data.drawn_shapes import ellipse, numbers, placed_mask, rectangle
from m2f.data.image_finder import ImageFinder
from m2f.data.safe_xml import read_xml
from m2f.data.shape_dataset import Shape, ShapeDataset, ShapeImage, extent, labels_of

_AREAS = {
    "polygon": ("points",),
    "mask": ("rle", "left", "top", "width", "height"),
    "box": ("xtl", "ytl", "xbr", "ybr", "rotation"),
    "ellipse": ("cx", "cy", "rx", "ry", "rotation"),
}
_OTHERS = ("polyline", "points", "cuboid", "skeleton")


class CvatImages(ShapeDataset):
    """A `SegmentationDataset` of an xml "CVAT for images".

    Segments are in ascending z_order, and each keeps its pixels where another lies on it. Shapes with the same label
    and group_id are one object. Tags are not looked at.

    Args:
        annotation_file: the xml.
        image_folder: of the images; where the xml is by default.
        id2label: names of the classes; by default the labels that the xml lists, or where it lists none those of its
            shapes, sorted.
        split: name of the split, one of `cvat_splits`.
        drop_others: leaves out points, lines, cuboids and skeletons, which are errors otherwise.

    Raises:
        FileNotFoundError: no such file; for an item: no image.
        ValueError: not such an xml; for an item: what `ShapeDataset` raises.
    """

    format = "cvat"

    def __init__(
        self,
        annotation_file: str | Path,
        image_folder: str | Path | None = None,
        id2label: Mapping[int, str] | Sequence[str] | None = None,
        split: str | None = None,
        drop_others: bool = False,
    ):
        path = Path(annotation_file)
        root = _read(path)
        subsets, elements = _subsets(root), root.findall("image")
        images = [_image(image, path) for image in elements if not subsets or image.get("subset") == split]
        if id2label is None:
            id2label = _listed(root) or labels_of(_image(image, path) for image in elements)
        super().__init__(images, id2label, ImageFinder(image_folder or path.parent), split or "train", drop_others)

    def draw(self, shape: Shape, size: tuple[int, int]) -> list[list[float]] | np.ndarray:
        if shape.kind == "mask":
            return _mask(shape.geometry, size)
        if shape.kind == "polygon":
            return [[value for point in shape.geometry[0].split(";") for value in _floats(point.split(","), 2)]]
        values = _floats(shape.geometry, 5)
        return [rectangle(*values) if shape.kind == "box" else ellipse(*values)]


def cvat_splits(path: Path) -> list[str]:
    """The subsets that the images of an xml of CVAT have; none where it has no subsets.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such xml.
    """
    return _subsets(_read(path))


def _read(path: Path) -> Element:
    root = read_xml(path)
    if root.tag != "annotations" or root.find("image") is None:
        hint = "; of a video, export as CVAT for images" if root.find("track") is not None else ""
        raise ValueError(f"{path} is no xml of CVAT for images: annotations with images are needed{hint}")
    return root


def _subsets(root: Element) -> list[str]:
    return list(dict.fromkeys(image.get("subset", "") for image in root.findall("image") if image.get("subset")))


def _listed(root: Element) -> list[str]:
    """The labels of the task, job or project; a skeleton's parts, which have a parent, are none."""
    labels = (label for meta in root.findall("meta") for label in meta.iter("label") if label.find("parent") is None)
    return list(dict.fromkeys(name for label in labels if (name := label.findtext("name"))))


def _image(element: Element, path: Path) -> ShapeImage:
    name = element.get("name") or f"image {element.get('id')}"
    where = f"{path}, image {name}"
    try:
        size = extent(_number(element.get("height")), "height"), extent(_number(element.get("width")), "width")
        shapes = [(_shape(child, i), _z_order(child)) for i, child in enumerate(element) if _is_shape(child)]
    except ValueError as error:
        return ShapeImage((name,), where, None, [], f"{where}: {error}")
    return ShapeImage((name,), where, size, [shape for shape, _ in sorted(shapes, key=lambda pair: pair[1])])


def _is_shape(element: Element) -> bool:
    return element.tag in _AREAS or element.tag in _OTHERS


def _z_order(element: Element) -> float:
    return _number(element.get("z_order", "0"))


def _shape(element: Element, number: int) -> Shape:
    name, label = f"{element.tag} {number}", element.get("label")
    if not label:
        raise ValueError(f"{name} has no label")
    if element.tag in _OTHERS:
        return Shape(name, label, "", element.tag)
    texts = [element.get(key, "0" if key == "rotation" else None) for key in _AREAS[element.tag]]
    if None in texts:
        raise ValueError(f"{name} has no {_AREAS[element.tag][texts.index(None)]!r}")
    return Shape(name, label, element.tag, texts, element.get("group_id") or None)


def _mask(texts: list[str], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of run lengths, off and on in turn, along the rows of a box."""
    left, top, *sides = _floats(texts[1:], 4)
    width, height = (extent(side, "a side of the mask") for side in sides)
    if width > size[1] or height > size[0]:
        raise ValueError(f"a mask of {height} x {width} is larger than the image of {size[0]} x {size[1]}")
    runs = np.array(_floats(texts[0].split(","), None), np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"the mask's runs sum to {runs.sum()}; {height} x {width} = {height * width} is needed")
    mask = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
    return placed_mask(mask, int(left), int(top), size)


def _floats(texts: Sequence[str], count: int | None) -> list[float]:
    return numbers([_number(text) for text in texts], count)


def _number(text: Any) -> float:
    # float() would take 1_0 for 10, and digits of other scripts.
    if not isinstance(text, str) or "_" in text or not text.isascii():
        raise ValueError(f"{str(text)[:20]!r} is no number")
    return float(text)
