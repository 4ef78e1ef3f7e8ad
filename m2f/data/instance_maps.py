"""Maps of instance ids: folders of images with a label map for each, in which every object has a number of its own."""

import csv
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from m2f.data.class_names import check_names
from m2f.data.csv_delimiter import delimiter_of
from m2f.data.image_reading import ImageFile
from m2f.data.label_maps import read_label_map, segments_of_ids
from m2f.data.paired_files import paired_files
from m2f.data.segment_map import Sample, SegmentMap
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.image_opening import IMAGE_SUFFIXES
from m2f.image_processing.label_values import IGNORED, NOTHING
from m2f.image_processing.white_level import WhiteLevel

OBJECT = "object"  # the class where none is named
_ID_LIMIT = 1 << 31
_IDS = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?")


class InstanceMaps:
    """A `SegmentationDataset` of images and maps of instance ids with the same name, in folders and their folders.

    Every id but 0, which is background, is one object; ids are counted anew in each map. An image without a map, and a
    map without an image, are items that raise.

    Args:
        image_folder: folder of the images.
        label_folder: folder of the maps, PNG or TIFF of up to 32 bits with one number per pixel.
        classes: a csv file that tells the class of each object, see `InstanceTable`; without it all are of one class.
        id2label: the name of that class, a dict or a list; "object" by default.
        ignore_index: id of the pixels of which nothing is known; None: there is none.
        split: name of this part of the dataset; that of the image folder by default.
        label_suffix: as for `SemanticFolder`.

    Raises:
        FileNotFoundError: no such folder or csv file; for an item: no image or no map.
        ValueError: no image at all, two with the same name, a bad csv file, `classes` beside `id2label`, or names of
            several classes; for an item: a file that cannot be decoded, an id that the csv file lacks, or different
            sizes.
    """

    task = "instance"
    thing_label_ids = None
    format = "instance-maps"
    white_level: WhiteLevel = None
    num_channels: int = USUAL_CHANNELS

    def __init__(
        self,
        image_folder: str | Path,
        label_folder: str | Path,
        classes: str | Path | None = None,
        id2label: Mapping[int, str] | Sequence[str] | None = None,
        ignore_index: int | None = None,
        split: str | None = None,
        label_suffix: str = "",
    ):
        if classes is not None and id2label is not None:
            raise ValueError("classes and id2label both name the classes; give one of them")
        self.image_folder, self.label_folder = Path(image_folder), Path(label_folder)
        self.split = split or self.image_folder.name
        self._table = None if classes is None else InstanceTable(Path(classes))
        self._ignore_index = ignore_index
        names = None if id2label is None else check_names(id2label, "id2label")
        self.id2label = one_class(names) if self._table is None else self._table.id2label
        self._files = paired_files(self.image_folder, self.label_folder, label_suffix)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        name, label_name = self._files[index]
        image = ImageFile(self.image_path(index), str(self.image_path(index)), self.white_level, self.num_channels)
        path = self.label_folder / label_name
        ids = read_instance_map(path, str(path))
        image.check_size(ids.shape, str(path))

        def class_of(number: int) -> int:
            return 0 if self._table is None else self._table.class_of(label_name, number, str(path))

        return image.sample(segments_of_instances(ids, class_of, self._ignore_index), name)

    def name_of(self, index: int) -> str:
        return self._files[index][0]

    def image_path(self, index: int) -> Path:
        return self.image_folder / self._files[index][0]


class InstanceTable:
    """The classes of instance ids: a csv file with the columns "id" and "class", and possibly "image".

    An id is a number, or a range such as 1000-1999. A row with an image, the name of a map with or without its suffix,
    is about that map alone and comes before those without, and a number comes before a range. Classes are numbered in
    the order of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file; the message has the line.
    """

    def __init__(self, path: Path):
        self.path = path
        self._single: dict[tuple[str, int], int] = {}  # (image, id) -> class
        self._ranges: dict[str, list[tuple[int, int, int]]] = {}  # image -> (first id, last id, class)
        numbers: dict[str, int] = {}
        for line, row in enumerate(_read_rows(path), 2):
            found = _IDS.fullmatch((row["id"] or "").strip())
            name = (row["class"] or "").strip()
            if not found or not name:
                entry = f"id {reprlib.repr(row['id'])} and class {reprlib.repr(row['class'])}"
                raise ValueError(
                    f"{path}, line {line} has {entry}; a number or range such as 1-9, and a name are needed"
                )
            label, image = numbers.setdefault(name, len(numbers)), _stem((row.get("image") or "").strip())
            if found[2] is None:
                self._single[image, int(found[1])] = label
            else:
                self._ranges.setdefault(image, []).append((int(found[1]), int(found[2]), label))
        if not numbers:
            raise ValueError(f"{path} has no row; one for each id or range of ids is needed")
        self.id2label = {label: name for name, label in numbers.items()}

    def class_of(self, image: str, number: int, where: str) -> int:
        """The class of an id in a map.

        Raises:
            ValueError: the table lacks it.
        """
        for key in (_stem(image), _stem(image.rpartition("/")[2]), ""):
            if (key, number) in self._single:
                return self._single[key, number]
            for first, last, label in self._ranges.get(key, ()):
                if first <= number <= last:
                    return label
        raise ValueError(f"{where} holds the id {number}, which {self.path} lacks")


def read_instance_map(source: Path | bytes, name: str) -> np.ndarray:
    """(H, W) int32 ids of a PNG or TIFF; see `read_label_map`."""
    return read_label_map(source, name, _ID_LIMIT)


def segments_of_instances(ids: np.ndarray, class_of: Callable[[int], int], ignore_index: int | None) -> SegmentMap:
    """One segment for each id but 0, in ascending order.

    Args:
        ids: (H, W) integers.
        class_of: id -> class.
        ignore_index: id of the pixels that are `IGNORED`, or None.
    """
    outside = {0: NOTHING} | ({} if ignore_index is None else {ignore_index: IGNORED})
    found = np.unique(ids).tolist()
    numbers = [number for number in found if number not in outside]
    outside = {number: meaning for number, meaning in outside.items() if number in found}
    return segments_of_ids(ids, numbers, [class_of(number) for number in numbers], outside, "")


def one_class(id2label: dict[int, str] | None) -> dict[int, str]:
    """The class of instances that no table tells apart.

    Raises:
        ValueError: several classes.
    """
    names = [OBJECT] if id2label is None else list(id2label.values())
    if len(names) != 1:
        raise ValueError(f"id2label names {len(names)} classes; ids of instances without a table are of one class")
    return dict(enumerate(names))


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            delimiter = delimiter_of(file.readline())
            file.seek(0)
            reader = csv.DictReader(file, delimiter=delimiter)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"cannot read {path} as csv: {error}") from error
    if not {"id", "class"} <= set(columns):
        raise ValueError(f"{path} has the columns {reprlib.repr(columns)}; id and class are needed, image is optional")
    return rows


def _stem(name: str) -> str:
    """The name without the suffix of a label map or image."""
    stem, dot, suffix = name.replace("\\", "/").rpartition(".")
    return stem if dot + suffix.lower() in IMAGE_SUFFIXES else name.replace("\\", "/")
