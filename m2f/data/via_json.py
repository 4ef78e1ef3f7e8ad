"""Annotations of the VGG Image Annotator, VIA 1 and 2: its project file, and its export of annotations
(https://www.robots.ox.ac.uk/~vgg/software/via/)."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from m2f.data.coco_json import read_json
from m2f.data.drawn_shapes import ellipse, numbers, rectangle
from m2f.data.image_finder import ImageFinder
from m2f.data.shape_dataset import Shape, ShapeDataset, ShapeImage, field, in_place, labels_of

_PROJECT_KEY = "_via_img_metadata"
_AREAS = {"rect": ("x", "y", "width", "height"), "circle": ("cx", "cy", "r"), "ellipse": ("cx", "cy", "rx", "ry")}
NAMELESS = "object"  # the class of all regions where none has an attribute


class ViaRegions(ShapeDataset):
    """A `SegmentationDataset` of VIA's regions: polygons, rectangles, circles and ellipses.

    Args:
        annotation_file: json of the split.
        image_folder: of the images; where the json is by default.
        class_attribute: the region attribute that is the class; may be left out where there is one only. Regions of a
            dataset without any attribute are all of the class "object".
        id2label: names of the classes; by default the attribute's values in all splits, sorted.
        label_files: those of all splits, whose values count where `id2label` is not given.
        split: name of the split.
        drop_others: leaves out points and lines, which are errors otherwise.

    Raises:
        FileNotFoundError: no such file; for an item: no image.
        ValueError: not such a json, or several attributes; for an item: what `ShapeDataset` raises, or a region
            without the attribute.
    """

    format = "via"

    def __init__(
        self,
        annotation_file: str | Path,
        image_folder: str | Path | None = None,
        class_attribute: str | None = None,
        id2label: Mapping[int, str] | Sequence[str] | None = None,
        label_files: Iterable[str | Path] = (),
        split: str = "train",
        drop_others: bool = False,
    ):
        path = Path(annotation_file)
        contents = {Path(file): _entries(Path(file)) for file in {path: 0, **dict.fromkeys(map(Path, label_files), 0)}}
        attribute = class_attribute or _only_attribute(contents)
        images = list(_images(path, contents[path], attribute))
        if id2label is None:
            others = (image for file in contents if file != path for image in _images(file, contents[file], attribute))
            id2label = labels_of([*images, *others])
        super().__init__(images, id2label, ImageFinder(image_folder or path.parent), split, drop_others)

    def draw(self, shape: Shape, size: tuple[int, int]) -> list[list[float]]:
        values = numbers(shape.geometry)
        if shape.kind == "rect":
            x, y, width, height = values
            return [rectangle(x, y, x + width, y + height)]
        if shape.kind == "circle":
            x, y, radius = values
            return [ellipse(x, y, radius, radius)]
        if shape.kind == "polygon":
            return [values]
        x, y, radius_x, radius_y, turn = values
        return [ellipse(x, y, radius_x, radius_y, math.degrees(turn))]


def is_via(content: Any) -> bool:
    """Whether the content of a json is a project or an export of VIA."""
    if isinstance(content, dict):
        content = content.get(_PROJECT_KEY, content)
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(entry, dict) and {"filename", "regions"} <= entry.keys() for entry in content.values())
    )


def _entries(path: Path) -> list[dict]:
    content = read_json(path)
    if not is_via(content):
        raise ValueError(f"{path} is no json of VIA: a dict of images with filename and regions is needed")
    return list(content.get(_PROJECT_KEY, content).values())


def _regions(entry: dict) -> list[Any]:
    regions = entry["regions"]  # VIA 1 has a dict
    return list(regions.values()) if isinstance(regions, dict) else field(entry, "regions", list)


def _only_attribute(contents: Mapping[Path, list[dict]]) -> str | None:
    """The attribute that regions have; None: they have none."""
    found: dict[str, None] = {}
    for entry in (entry for entries in contents.values() for entry in entries):
        try:
            attributes = [field(region, "region_attributes", dict, {}) for region in _regions(entry)]
        except ValueError:
            continue  # the image's own error, when it is read
        found.update((name, None) for names in attributes for name in names)
    if len(found) > 1:
        names = ", ".join(found)[:200]
        raise ValueError(
            f"{next(iter(contents))}: regions have the attributes {names}; say which is the class with "
            "--data-options class_attribute=NAME"
        )
    return next(iter(found), None)


def _images(path: Path, entries: list[dict], attribute: str | None) -> Iterator[ShapeImage]:
    for number, entry in enumerate(entries):
        where = f"{path}, image {number}"
        try:
            name = field(entry, "filename", str)
            where = f"{path}, image {name}"
            regions = enumerate(_regions(entry))
            shapes = [in_place(f"region {i}", _shape, region, i, attribute) for i, region in regions]
        except ValueError as error:
            named = entry["filename"] if isinstance(entry["filename"], str) else f"image {number}"
            yield ShapeImage((named,), where, None, [], f"{where}: {error}")
        else:
            yield ShapeImage((name,), where, None, shapes)


def _shape(region: Any, number: int, attribute: str | None) -> Shape:
    outline = field(region, "shape_attributes", dict)
    kind, name = field(outline, "name", str), f"region {number}"
    label = NAMELESS if attribute is None else _label(field(region, "region_attributes", dict, {}), attribute)
    if kind == "polygon":
        x, y = field(outline, "all_points_x", list), field(outline, "all_points_y", list)
        if len(x) != len(y):
            raise ValueError(f"there are {len(x)} x and {len(y)} y of the polygon")
        return Shape(name, label, kind, [value for point in zip(x, y, strict=True) for value in point])
    if kind not in _AREAS:
        return Shape(name, label, "", kind)
    values = [outline.get(key) for key in _AREAS[kind]]
    return Shape(name, label, kind, values + [outline.get("theta", 0)] * (kind == "ellipse"))


def _label(attributes: dict, attribute: str) -> str:
    """The value; of checkboxes, the only one that is ticked."""
    value = attributes.get(attribute)
    if isinstance(value, dict):
        ticked = [name for name, is_ticked in value.items() if is_ticked]
        value = ticked[0] if len(ticked) == 1 else None
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"it has no value, or several, for the attribute {attribute!r}, which is the class")
    return value.strip()
