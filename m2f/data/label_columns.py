"""The kinds of labels that the rows of a `datasets.Dataset` have, each with a way to compact labels."""

import reprlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from m2f.data.coco_json import FLAG, is_integer
from m2f.data.coco_masks import CocoObject, left_out_remarks, segments_of_objects, without_bad_parts
from m2f.data.coco_panoptic import crowd_flags, panoptic_segments, read_segment_ids, split_segments
from m2f.data.crowd_regions import CROWD_HINT, crowd_remarks
from m2f.data.instance_maps import one_class, read_instance_map, segments_of_instances
from m2f.data.label_maps import (
    ClassTable,
    names_by_number,
    read_channels,
    read_label_map,
    segments_of_classes,
    segments_of_values,
    values_in,
)
from m2f.data.segment_map import SegmentMap
from m2f.image_processing.label_values import NOTHING

logger = logging.get_logger(__name__)

_CATEGORY_KEYS = ("category_id", "category", "label", "labels")
_SEGMENTATION_KEYS = ("segmentation", "segmentations")
_CROWD_KEYS = ("iscrowd", "is_crowd")


class ObjectLabels:
    """A column of objects with a category and a segmentation each, COCO's polygons or RLE.

    Args:
        rows: the dataset.
        column: its column, a list of dicts or a dict of lists.
        id2label: name of each category number; None: the categories have a ClassLabel, are names themselves, or are
            called by their number.
        ignore_unknown, crowds_are_objects: as for `CocoInstances`.
    """

    task = "instance"

    def __init__(
        self,
        rows: Any,
        column: str,
        id2label: dict[int, str] | None,
        ignore_unknown: bool,
        crowds_are_objects: bool = False,
    ):
        self._rows, self._column, self._ignore_unknown = rows, column, ignore_unknown
        self._crowds_are_objects = crowds_are_objects
        self._id2label = id2label or _class_label_names(rows.features[column])

    @cached_property
    def names(self) -> dict[int, str]:
        """Name of each category number or, where the categories are texts, of its place among those."""
        if self._id2label is not None:
            return self._id2label
        found: set[int | str] = set()
        for number, objects in enumerate(self._rows.select_columns(self._column)[self._column]):
            found |= {_category(entry, f"row {number}") for entry in dicts_of(objects, f"row {number}")}
        if any(isinstance(category, str) for category in found):
            return dict(enumerate(sorted(map(str, found))))
        return names_by_number(max(map(int, found), default=-1))

    def segments(self, value: Any, size: tuple[int, int], where: str) -> SegmentMap:
        """Compact labels of the column's value in a row."""
        objects = self._objects(value, where)
        kept = [entry for entry in objects if entry.segmentation != []]
        if any(entry.is_crowd for entry in kept):
            logger.warning_once(f"annotations that are crowd regions take no part; {CROWD_HINT}")
        return segments_of_objects(kept, size, self._ignore_unknown, where)

    def remarks(self) -> list[tuple[str, str]]:
        """(kind of finding, message) for crowd regions and for what is left out. Reads all labels; rows that
        `segments` refuses are not counted.

        Raises:
            ValueError: the classes cannot be listed.
        """
        flags: list[tuple[int, bool]] = []
        total, parts, names = 0, 0, dict(enumerate(self.names.values()))
        for value in self._rows.select_columns(self._column)[self._column]:
            try:
                objects = self._objects(value, "")
            except ValueError:
                continue
            total += len(objects)
            flags += [(entry.class_id, entry.is_crowd) for entry in objects if entry.segmentation != []]
            polygons = (_polygons(entry) for entry in dicts_of(value, ""))
            parts += sum(dropped for kept, dropped in polygons if kept != [])
        return left_out_remarks(total, total - len(flags), parts) + crowd_remarks(flags, names)

    def _objects(self, value: Any, where: str) -> list[CocoObject]:
        return [self._object(entry, i, where) for i, entry in enumerate(dicts_of(value, where))]

    @cached_property
    def _class_of(self) -> dict[int | str, int]:
        classes = {label: i for i, label in enumerate(self.names)}
        return classes | {name: classes[label] for label, name in self.names.items()}

    def _object(self, entry: dict, number: int, where: str) -> CocoObject:
        name = entry.get("id", number)
        category, crowd = _category(entry, where), _first(entry, _CROWD_KEYS)
        if category not in self._class_of:
            known = reprlib.repr(list(self.names.values()))
            raise ValueError(f"{where}, annotation {name}: category {category!r} is not among {known}")
        if not FLAG.holds(crowd):
            raise ValueError(f"{where}, annotation {name}: iscrowd is {crowd!r}; 0 or 1 is needed")
        segmentation, dropped = _polygons(entry)
        if dropped or segmentation == []:
            logger.warning_once("polygons of fewer than three points are left out; m2f check counts them")
        return CocoObject(name, self._class_of[category], segmentation, bool(crowd) and not self._crowds_are_objects)


class PanopticLabels:
    """A PNG of segment ids, as of `CocoPanoptic`, and a column "segments_info" with id and category_id of each."""

    task = "panoptic"

    def __init__(
        self, rows: Any, id2label: dict[int, str] | None, ignore_unknown: bool, crowds_are_objects: bool = False
    ):
        self._rows, self._id2label, self._ignore_unknown = rows, id2label, ignore_unknown
        self._crowds_are_objects = crowds_are_objects

    @cached_property
    def names(self) -> dict[int, str]:
        """Name of each category number."""
        if self._id2label is not None:
            return self._id2label
        column = self._rows.select_columns("segments_info")["segments_info"]
        infos = [info for number, row in enumerate(column) for info in dicts_of(row, f"row {number}")]
        numbers = (info.get("category_id") for info in infos)  # `segments` refuses a row where one is none
        return names_by_number(max(filter(is_integer, numbers), default=-1))

    def segments(self, source: Path | bytes, segments_info: Any, where: str) -> SegmentMap:
        """Compact labels of a row."""
        ids = read_segment_ids(source, where)
        parts = split_segments(dicts_of(segments_info, where), self._class_of, where, self._crowds_are_objects)
        if parts[2]:
            logger.warning_once(f"annotations that are crowd regions take no part; {CROWD_HINT}")
        return panoptic_segments(ids, *parts, self._ignore_unknown, where)

    def remarks(self) -> list[tuple[str, str]]:
        """(kind of finding, message) for crowd regions. Rows that `segments` refuses are not counted."""
        flags: list[tuple[int, bool]] = []
        names = dict(enumerate(self.names.values()))
        for value in self._rows.select_columns("segments_info")["segments_info"]:
            try:
                infos = dicts_of(value, "")
                split_segments(infos, self._class_of, "")
            except ValueError:
                continue
            flags += crowd_flags(infos, self._class_of, self._crowds_are_objects)
        return crowd_remarks(flags, names)

    @cached_property
    def _class_of(self) -> dict[int | str, int]:
        return {label: i for i, label in enumerate(self.names)}


class InstanceChannels:
    """A PNG whose first channel is the class and whose second is the number of the instance, as transformers' example
    of instance segmentation has them; the third is 0.

    Where both are 0 is background. Departure: transformers' example makes an instance of it unless it reduces labels.
    """

    task = "instance"

    def __init__(self, table: ClassTable):
        self.table = table

    def values(self, source: Path | bytes, where: str) -> list[int]:
        """The values in the channel of classes."""
        return values_in(read_channels(source, where)[..., 0])

    def segments(self, source: Path | bytes, where: str) -> SegmentMap:
        """Compact labels of a row: a segment for each pair of class and number, by number, then class."""
        channels = read_channels(source, where).astype(np.int32)
        if channels[..., 2].any():
            raise ValueError(f"{where}: the third channel is not 0; this is no PNG of classes and instances")
        pairs = channels[..., 0] + (channels[..., 1] << 8)
        found = np.array(values_in(pairs))
        classes = self.table.classes(found & 255, where)
        classes[(found == 0) & (classes >= 0)] = NOTHING
        return segments_of_values(pairs, dict(zip(found.tolist(), classes.tolist(), strict=True)))


class SemanticLabels:
    """A label map with one number per pixel."""

    task = "semantic"

    def __init__(self, table: ClassTable):
        self.table = table

    def values(self, source: Path | bytes, where: str) -> list[int]:
        """The values in a row's map."""
        return values_in(read_label_map(source, where))

    def segments(self, source: Path | bytes, where: str) -> SegmentMap:
        """Compact labels of a row, a segment for each class."""
        return segments_of_classes(self.table.classes(read_label_map(source, where), where))


class InstanceIds:
    """A label map with the id of an object per pixel, all of one class.

    Args:
        id2label: the name of that class; None: `OBJECT`.
    """

    task = "instance"

    def __init__(self, id2label: dict[int, str] | None):
        self.names = one_class(id2label)

    def segments(self, source: Path | bytes, where: str) -> SegmentMap:
        """Compact labels of a row, a segment for each id but 0."""
        return segments_of_instances(read_instance_map(source, where), lambda number: 0, None)


def dicts_of(value: Any, where: str) -> list[dict]:
    """A list of dicts, which may be stored as a dict of lists; None is an empty one.

    Raises:
        ValueError: neither, or lists of different lengths.
    """
    if isinstance(value, dict):
        lists = {key: entries for key, entries in value.items() if isinstance(entries, list)}
        lengths = {key: len(entries) for key, entries in lists.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{where}: the lists of one object each have different lengths: {lengths}")
        return [dict(zip(lists, entry, strict=True)) for entry in zip(*lists.values(), strict=True)]
    value = [] if value is None else value
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError(f"{where}: the annotations are {reprlib.repr(value)}; a list of dicts is needed")
    return value


def _category(entry: dict, where: str) -> int | str:
    category = _first(entry, _CATEGORY_KEYS)
    if not is_integer(category) and not isinstance(category, str):
        keys = ", ".join(_CATEGORY_KEYS)
        raise ValueError(f"{where}: an object has no number or name as its category (looked for {keys})")
    return category


def _polygons(entry: dict) -> tuple[Any, int]:
    """The segmentation of an object, and how many bad parts it is without."""
    segmentation = _first(entry, _SEGMENTATION_KEYS)
    if isinstance(segmentation, list) and segmentation and not isinstance(segmentation[0], list):
        segmentation = [segmentation]  # one polygon needs no list of polygons there
    return without_bad_parts(segmentation)


def _first(entry: dict, keys: Sequence[str]) -> Any:
    """The value of the first key that has one."""
    return next((entry[key] for key in keys if entry.get(key) is not None), None)


def _class_label_names(feature: Any) -> dict[int, str] | None:
    """The names of a ClassLabel for the category of an object, wherever the lists are."""
    if isinstance(feature, Mapping):
        entry = {key: inner for key, inner in feature.items() if key in _CATEGORY_KEYS}
        return next((names for names in map(_class_label_names, entry.values()) if names), None)
    if hasattr(feature, "feature"):  # a list of something
        return _class_label_names(feature.feature)
    names = getattr(feature, "names", None)  # of a ClassLabel
    return dict(enumerate(names)) if names else None
