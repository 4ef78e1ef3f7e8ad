"""What the readers of annotation tools' files have in common: images with shapes, and names instead of classes."""

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from m2f.data.class_names import check_names
from m2f.data.coco_json import PackedLists
from m2f.data.coco_masks import CocoObject, segments_of_objects
from m2f.data.drawn_shapes import joined
from m2f.data.image_finder import ImageFinder
from m2f.data.image_reading import ImageFile
from m2f.data.segment_map import Sample
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.white_level import WhiteLevel

Value = TypeVar("Value")
_TYPES = {str: "a text", list: "a list", dict: "a dict", int: "an integer"}


class Shape(NamedTuple):
    """One shape of an image.

    Args:
        name: what messages call it, such as its number or id.
        label: name of its class.
        kind: of the geometry, which the reader knows how to draw; "" for what is no area, such as points and lines.
        geometry: what json has, or bytes; of what is no area, what the tool calls it.
        group: shapes of an image with the same group and label are parts of one object; None: of none.
    """

    name: str
    label: str
    kind: str
    geometry: Any
    group: Any = None


class ShapeImage(NamedTuple):
    """One image with its shapes.

    Args:
        names: what it is called; several, where a tool changes names.
        where: the file, and the place in it, for messages.
        size: (H, W) that the file says; None: it says none.
        shapes: in the order of the file.
        problem: why the shapes could not be read; None: they could.
    """

    names: tuple[str, ...]
    where: str
    size: tuple[int, int] | None
    shapes: list[Shape]
    problem: str | None = None


class ShapeDataset:
    """A `SegmentationDataset` of images with shapes, each an object; where they overlap each keeps its pixels.

    A subclass reads its files, and says in `draw` how its shapes become masks.

    Args:
        images: the images of the split.
        labels: names of the classes in their order.
        finder: of the image files.
        split: name of the split.
        drop_others: leaves out the shapes that are no area, such as points and lines, which are errors otherwise.

    Raises:
        ValueError: no image; for an item: a shape that is no area or of an unknown class, coordinates that are no
            numbers, sizes that differ, an image that cannot be decoded. The message names file and shape.
        FileNotFoundError: for an item: no image.
    """

    task = "instance"
    thing_label_ids = None
    format = ""
    ignored_label: str | None = None  # of regions that are `IGNORED` where no object lies
    white_level: WhiteLevel = None
    num_channels: int = USUAL_CHANNELS

    def __init__(
        self,
        images: Sequence[ShapeImage],
        labels: Mapping[int, str] | Sequence[str],
        finder: ImageFinder,
        split: str,
        drop_others: bool = False,
    ):
        if not images:
            raise ValueError(f"{finder.folder}: the split {split!r} has no image")
        self.split, self._drop_others = split, drop_others
        names = check_names(labels, "id2label") if labels else {}
        self.id2label = dict(enumerate(names.values()))
        self._class_of = {name: label for label, name in self.id2label.items()}
        self.image_folder = finder.folder
        self._images = [self._located(image, finder) for image in images]
        self._shapes = PackedLists(([tuple(shape) for shape in image.shapes] for image in images), self.format)
        self._files = [image.names[0] for image in self._images]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        entry, path = self._images[index], self.image_path(index)
        if entry.problem is not None:
            raise ValueError(entry.problem)
        image = ImageFile(path, str(path), self.white_level, self.num_channels)
        size = entry.size or image.size
        image.check_size(size, entry.where)
        shapes = [Shape(*values) for values in self._shapes[index]]
        objects = [self._object(parts, size, entry.where) for parts in _grouped(self._areas(shapes, entry.where))]
        return image.sample(segments_of_objects(objects, size, True, entry.where), self.name_of(index))

    def name_of(self, index: int) -> str:
        return self._files[index]

    def image_path(self, index: int) -> Path:
        return self.image_folder / self._files[index]

    def draw(self, shape: Shape, size: tuple[int, int]) -> list[list[float]] | np.ndarray:
        """Polygons in pixels or a mask (H, W) of bool, in an image of `size`.

        Raises:
            ValueError: the geometry is not as it should be.
        """
        raise NotImplementedError

    def _located(self, image: ShapeImage, finder: ImageFinder) -> ShapeImage:
        """The entry under its file's name, without the shapes, which are packed."""
        try:
            return image._replace(names=(finder.find(*image.names),), shapes=[])
        except ValueError as error:
            name = image.names[0].replace("\\", "/").rpartition("/")[2]
            return image._replace(names=(name,), shapes=[], problem=f"{image.where}: {error}")

    def _areas(self, shapes: list[Shape], where: str) -> list[Shape]:
        areas = [shape for shape in shapes if shape.kind]
        others = len(shapes) - len(areas)
        if others and not self._drop_others:
            kinds = sorted({str(shape.geometry) for shape in shapes if not shape.kind})
            raise ValueError(
                f"{where}: {others} of {len(shapes)} shapes are no areas ({', '.join(kinds)[:80]}); delete them, or "
                "leave them out with --data-options drop_others=true"
            )
        return areas

    def _object(self, parts: list[Shape], size: tuple[int, int], where: str) -> CocoObject:
        first = parts[0]
        ignored = first.label == self.ignored_label
        if first.label not in self._class_of and not ignored:
            known = reprlib.repr(list(self._class_of))
            raise ValueError(f"{where}, annotation {first.name}: the class {first.label[:80]!r} is none of {known}")
        drawn = [in_place(f"{where}, annotation {part.name}", self.draw, part, size) for part in parts]
        segmentation = in_place(f"{where}, annotation {first.name}", joined, drawn, size)
        return CocoObject(first.name, self._class_of.get(first.label, -1), segmentation, ignored)


def in_place(where: str, read: Callable[..., Value], *args: Any) -> Value:
    """What `read` returns; its ValueError gets the place in front."""
    try:
        return read(*args)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def field(entry: Any, key: str, kind: type[Value], default: Value | None = None) -> Value:
    """The value of a key of a json's dict.

    Raises:
        ValueError: no dict, no such key (without a default), or a value of another type.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{reprlib.repr(entry)} stands where a dict is needed")
    value = entry.get(key, default)
    if default is not None and value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        found = f"{key!r} is {reprlib.repr(value)}" if key in entry else f"there is no {key!r}"
        raise ValueError(f"{found}; {_TYPES[kind]} is needed")
    return value


def extent(value: Any, what: str) -> int:
    """A height or width above 0, also as a float that is integral.

    Raises:
        ValueError: something else.
    """
    if type(value) not in (int, float) or not 0 < value < 1 << 24 or value != int(value):
        raise ValueError(f"{what} is {reprlib.repr(value)}; an integer above 0 is needed")
    return int(value)


def labels_of(images: Iterable[ShapeImage]) -> list[str]:
    """The labels that there are, sorted."""
    return sorted({shape.label for image in images for shape in image.shapes if shape.kind})


def _grouped(shapes: list[Shape]) -> list[list[Shape]]:
    """The parts of each object, in the order of their first parts."""
    objects: dict[Any, list[Shape]] = {}
    for number, shape in enumerate(shapes):
        key = (number,) if shape.group is None else (shape.label, repr(shape.group))
        objects.setdefault(key, []).append(shape)
    return list(objects.values())
