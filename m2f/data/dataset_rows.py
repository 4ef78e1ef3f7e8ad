"""Rows of a `datasets.Dataset`: from the Hub, a parquet file, a folder written by `save_to_disk`, or memory."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from m2f.data.class_names import check_names
from m2f.data.crowd_regions import takes_as_objects
from m2f.data.image_reading import ImageFile
from m2f.data.label_columns import InstanceChannels, InstanceIds, ObjectLabels, PanopticLabels, SemanticLabels
from m2f.data.label_maps import ClassTable, has_channels, names_by_number, read_channels
from m2f.data.label_survey import check_channels, check_two_values, chosen_index, numbered_classes
from m2f.data.named_files import NamedFiles
from m2f.data.segment_map import Sample, SegmentMap
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.label_values import IGNORED, NOTHING
from m2f.image_processing.white_level import WhiteLevel

_IMAGE_COLUMNS = ("image", "pixel_values")
_LABEL_COLUMNS = ("objects", "annotations", "annotation", "mask", "label", "labels", "segmentation")
_SEGMENTS_COLUMN = "segments_info"
_NAMES_COLUMN = "semantic_class_to_id"  # of the data of transformers' example


class DatasetRows:
    """A `SegmentationDataset` of rows with an image and one of

    - objects with a category and a segmentation, COCO's polygons or RLE ("objects", or "annotations");
    - a PNG of segment ids and "segments_info", as of COCO panoptic;
    - a PNG of three channels, class, number of the instance and 0, as transformers' examples have it;
    - a label map with one number per pixel: a class, or with `instances` an object.

    Args:
        rows: a `datasets.Dataset`.
        split: its name.
        id2label: name of each label, a dict or a list; classes are numbered from 0 in ascending order of the labels.
            Found in the data by default, as a ClassLabel, in the column "semantic_class_to_id", or as names for
            categories; else classes are called by their number, and the first look at `id2label` reads all labels.
        ignore_index, reduce_labels: as for `SemanticFolder`, for label maps and PNGs of classes and instances, where a
            reduced 0 is background.
        ignore_unknown: as for `CocoInstances`, `CocoPanoptic` and `SemanticFolder`.
        thing_label_ids: of panoptic rows, which do not tell; all classes are things by default.
        image_column, label_column: found by their names by default.
        crowd: as for `CocoInstances`.
        instances: label maps hold ids of instances, 0 for none, all of one class, which `id2label` names; no id is
            ignored.
        folder: only image files in it are read, where rows have paths instead of contents, as `NamedFiles` finds them;
            None: all.
        origin: what messages call the rows' source.

    Raises:
        ValueError: no such columns, label maps of two values of which one is ignored, or colours where classes and
            instances are looked for; for an item: what the readers of files raise. The message has the row's number.
    """

    format = "datasets"
    white_level: WhiteLevel = None
    num_channels: int = USUAL_CHANNELS

    def __init__(
        self,
        rows: Any,
        split: str = "train",
        id2label: Mapping[int, str] | Sequence[str] | None = None,
        ignore_index: int | None | Literal["auto"] = "auto",
        reduce_labels: bool = False,
        ignore_unknown: bool = True,
        thing_label_ids: list[int] | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        folder: Path | None = None,
        origin: str = "dataset",
        crowd: str = "ignore",
        instances: bool = False,
    ):
        self._crowds_are_objects, self._has_instance_ids = takes_as_objects(crowd), instances
        self.split, self._folder, self._origin = split, folder, origin
        rows = rows.with_format(None)
        self._image_column = image_column or _choose(rows, _IMAGE_COLUMNS, _is_image, "image", origin)
        self._label_column = label_column or _choose(rows, _LABEL_COLUMNS, _is_label, "label", origin)
        self._rows = _without_decoding(rows)
        self._files: dict[str, NamedFiles] = {}  # by column, where rows have paths
        names = None if id2label is None else check_names(id2label, "id2label")
        ignored, self._chosen = chosen_index(ignore_index)
        self._labels, self._names = self._label_kind(names, ignored, reduce_labels, ignore_unknown)
        self._check_values()
        self.task = self._labels.task
        self.thing_label_ids = {"panoptic": thing_label_ids, "instance": None, "semantic": []}[self.task]

    @property
    def id2label(self) -> dict[int, str]:
        if self._names is None and isinstance(self._labels, ObjectLabels | PanopticLabels):
            self._names = dict(enumerate(self._labels.names.values()))
        elif self._names is None and isinstance(self._labels, SemanticLabels):
            values = (self._labels.values(*self._label_source(row)) for row in range(len(self)))
            remedy = "--data-options instances=true"
            self._names = numbered_classes(values, self._labels.table, self._maps(), remedy, self._chosen)
        elif self._names is None:
            maps = (self._labels.segments(*self._label_source(row)) for row in range(len(self)))
            self._names = names_by_number(max((int(m.class_ids.max(initial=-1)) for m in maps), default=-1))
        return self._names

    @property
    def remarks(self) -> list[tuple[str, str]]:
        """(kind of finding, message) for crowd regions and what is left out. Reads all labels."""
        if not isinstance(self._labels, ObjectLabels | PanopticLabels):
            return []
        try:
            return self._labels.remarks()
        except ValueError:  # of a row that keeps the classes from being listed, which is an error of its own
            return []

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        row, where = self._rows[index], f"{self._origin}, {self.name_of(index)}"
        source = self._source(row[self._image_column], self._image_column, where)
        image = ImageFile(source, f"{where}, {self._image_column}", self.white_level, self.num_channels)
        if isinstance(self._labels, ObjectLabels):
            segments = self._labels.segments(row[self._label_column], image.size, where)
        else:
            segments = self._segments(row, index)
        return image.sample(segments, self.name_of(index))

    def name_of(self, index: int) -> str:
        return f"row {index}"

    def image_path(self, index: int) -> None:
        return None

    def _segments(self, row: dict, index: int) -> SegmentMap:
        """Compact labels of a row whose labels are an image."""
        where = f"{self._origin}, {self.name_of(index)}, {self._label_column}"
        source = self._source(row[self._label_column], self._label_column, where)
        if isinstance(self._labels, PanopticLabels):
            return self._labels.segments(source, row[_SEGMENTS_COLUMN], where)
        return self._labels.segments(source, where)

    def _label_kind(self, names: dict[int, str] | None, ignore_index: int | None, reduce: bool, ignore_unknown: bool):
        """How labels are read, and the classes' names as far as they are known."""
        if not _is_image(self._rows.features[self._label_column]):
            crowds = self._crowds_are_objects
            return ObjectLabels(self._rows, self._label_column, names, ignore_unknown, crowds), None
        if self._has_instance_ids:
            labels = InstanceIds(names)
            return labels, labels.names
        if _SEGMENTS_COLUMN in self._rows.column_names:
            return PanopticLabels(self._rows, names, ignore_unknown, self._crowds_are_objects), None
        if not len(self._rows):
            raise ValueError(f"{self._origin} has no rows; the kind of its labels cannot be told")
        first, where = self._rows[0], f"{self._origin}, row 0, {self._label_column}"
        source = self._source(first[self._label_column], self._label_column, where)
        is_instance = has_channels(source, where) and not self._is_grey()
        names = names or _names_of_row(first.get(_NAMES_COLUMN), reduce, f"{self._origin}, row 0")
        unknown = IGNORED if ignore_unknown else NOTHING
        zero = NOTHING if is_instance else unknown
        table = ClassTable(None if names is None else list(names), ignore_index, reduce, unknown, zero)
        kind = InstanceChannels(table) if is_instance else SemanticLabels(table)
        return kind, None if names is None else dict(enumerate(names.values()))

    def _is_grey(self) -> bool:
        """Whether the first label image with a pixel that is not 0 has the same in all channels."""
        for channels in self._channels():
            if channels.any():
                return bool((channels == channels[..., :1]).all())
        return False

    def _check_values(self):
        """Refuses label images whose values cannot be classes."""
        if isinstance(self._labels, InstanceChannels):
            check_channels(self._channels(), self._names is not None, self._maps())
        if isinstance(self._labels, InstanceChannels | SemanticLabels):
            names = self._names and list(self._names.values())
            has_background = isinstance(self._labels, InstanceChannels)
            values, table = self._readable_values(), self._labels.table
            check_two_values(values, table, names, self._maps(), has_background, self._chosen)

    def _maps(self) -> str:
        return f"{self._origin}: the label maps in the column {self._label_column}"

    def _label_source(self, index: int) -> tuple[Path | bytes, str]:
        """File and name of a row's label image."""
        where = f"{self._origin}, {self.name_of(index)}, {self._label_column}"
        row = self._rows.select_columns(self._label_column)[index]
        return self._source(row[self._label_column], self._label_column, where), where

    def _readable_values(self) -> Iterator[list[int]]:
        for index in range(len(self)):
            with contextlib.suppress(OSError, ValueError):
                yield self._labels.values(*self._label_source(index))

    def _channels(self) -> Iterator[np.ndarray]:
        """(H, W, 3) of each label image that has channels and can be read."""
        for index in range(len(self)):
            with contextlib.suppress(OSError, ValueError):
                yield read_channels(*self._label_source(index))

    def _source(self, value: Any, column: str, where: str) -> Path | bytes:
        """Content or path of an image file."""
        content, path = (value or {}).get("bytes"), (value or {}).get("path")
        if content is not None:
            return content
        if path is None:
            raise ValueError(f"{where} has no image")
        if self._folder is None:
            return Path(path)
        files = self._named_files(self._folder, column)
        found, doubt = files.find(files.add(path, where))
        if not os.path.isfile(found):
            raise FileNotFoundError(f"{where}: no such file: {found}{', ' * bool(doubt)}{doubt}")
        return found

    def _named_files(self, folder: Path, column: str) -> NamedFiles:
        """The files of a column by the names in all its rows, each of which means a file of its own."""
        if column not in self._files:
            files = self._files[column] = NamedFiles(folder, are_labels=column == self._label_column)
            rows = self._rows.select_columns(column)
            for index in range(len(rows)):
                entry = rows[index][column] or {}
                if entry.get("bytes") is None and entry.get("path") is not None:
                    with contextlib.suppress(ValueError):  # the row's own error, when it is read
                        files.add(entry["path"], "")
        return self._files[column]


def _is_image(feature: Any) -> bool:
    """Whether a column has images, also where a parquet file does not say so."""
    from datasets import Image

    return isinstance(feature, Image) or (isinstance(feature, Mapping) and {"bytes", "path"} <= set(feature))


def _is_label(feature: Any) -> bool:
    """An image or objects, no number: "label" is often the class of the whole image."""
    return _is_image(feature) or isinstance(feature, Mapping) or hasattr(feature, "feature")


def _choose(rows: Any, names: Sequence[str], fits: Callable[[Any], bool], option: str, origin: str) -> str:
    found = next((name for name in names if name in rows.column_names and fits(rows.features[name])), None)
    if found is None:
        raise ValueError(
            f"{origin} has the columns {', '.join(rows.column_names)}; none of {', '.join(names)} is there with "
            f"{option}s; give {option}_column"
        )
    return found


def _without_decoding(rows: Any) -> Any:
    """The dataset with image files as they are stored: `datasets` decodes all images of a row, and its errors do not
    tell which one is broken."""
    from datasets import Image

    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
    return rows


def _names_of_row(value: Any, reduce_labels: bool, where: str) -> dict[int, str] | None:
    """Class names from a row's name -> label; None where it has none."""
    if not isinstance(value, Mapping):
        return None
    names = {label - reduce_labels: name for name, label in value.items() if label is not None}
    return check_names({label: name for label, name in names.items() if label >= 0}, where)
