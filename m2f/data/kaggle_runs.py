"""Kaggle's csv of run lengths: a row for each object, with "start length start length ..." counted from 1 down one
column after the other (https://www.kaggle.com/competitions/data-science-bowl-2018/overview/evaluation)."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from m2f.data.csv_delimiter import delimiter_of
from m2f.data.image_finder import ImageFinder
from m2f.data.shape_dataset import Shape, ShapeDataset, ShapeImage, labels_of

_IMAGE_COLUMNS = ("imageid", "image_id", "imageid_classid", "image_label", "id", "image", "filename")
_RUNS_COLUMNS = ("encodedpixels", "rle", "annotation", "segmentation", "rle_mask")
_CLASS_COLUMNS = ("classid", "class_id", "class", "label", "cell_type")
_BOTH_COLUMNS = ("imageid_classid", "image_label")  # "0002cc93b.jpg_1"
_NO_RUNS = ("", "-1", "nan")
NAMELESS = "object"  # the class of all rows where none is given
_ORDERS = ("columns", "rows")


class KaggleRuns(ShapeDataset):
    """A `SegmentationDataset` of a csv of run lengths.

    Which column is which is found by its name in the first line, in any order. An image has as many objects as it has
    rows with runs; one whose runs are empty (or -1) has none. Images are found by their names, with or without suffix.

    Args:
        csv_file: of the split.
        image_folder: of the images; where the csv is by default.
        image_column, runs_column, class_column: names of the columns where they have others; without a class column
            all objects are of the class "object".
        order: "columns": pixels are counted down the columns, as in most competitions; "rows": along the rows.
        id2label: names of the classes; by default the values of the class column, sorted.
        split: name of the split.

    Raises:
        FileNotFoundError: no such file; for an item: no image.
        ValueError: not such a csv; for an item: what `ShapeDataset` raises, runs that overlap or leave the image.
    """

    format = "kaggle-rle"

    def __init__(
        self,
        csv_file: str | Path,
        image_folder: str | Path | None = None,
        image_column: str | None = None,
        runs_column: str | None = None,
        class_column: str | None = None,
        order: str = "columns",
        id2label: Mapping[int, str] | Sequence[str] | None = None,
        split: str = "train",
    ):
        if order not in _ORDERS:
            raise ValueError(f"order must be one of {', '.join(_ORDERS)}, got {order!r}")
        self._by_columns = order == "columns"
        path = Path(csv_file)
        header, rows = _read(path)
        columns = (
            _column(header, image_column, _IMAGE_COLUMNS, "image", path),
            _column(header, runs_column, _RUNS_COLUMNS, "runs", path),
            _column(header, class_column, _CLASS_COLUMNS, "class", path, needed=False),
        )
        images = _images(rows, columns, header, path)
        super().__init__(
            images, labels_of(images) if id2label is None else id2label,
            ImageFinder(image_folder or path.parent, by_stem=True), split,
        )  # fmt: skip

    def draw(self, shape: Shape, size: tuple[int, int]) -> np.ndarray:
        mask = kaggle_mask(shape.geometry, size[::-1] if self._by_columns else size)
        return mask.T if self._by_columns else mask


def kaggle_mask(text: str, size: tuple[int, int]) -> np.ndarray:
    """Bool of `size` (rows, columns) with runs along the rows, from "start length ..." counted from 1.

    Raises:
        ValueError: an odd count of numbers, runs that are not ascending, overlap, or leave the mask.
    """
    words = text.split()
    if len(words) % 2 or not all(word.isascii() and word.isdigit() and len(word) < 12 for word in words):
        raise ValueError(f"the runs are {text[:40]!r}; pairs of a start and a length are needed")
    runs = np.array(words, np.int64).reshape(-1, 2)
    starts, ends = runs[:, 0] - 1, runs.sum(1) - 1
    total = size[0] * size[1]
    if (starts < 0).any() or (ends > total).any():
        raise ValueError(
            f"the runs reach from pixel {starts.min() + 1} to {ends.max()}; 1 to {total} are in the image"
        )
    if (starts[1:] < ends[:-1]).any():
        raise ValueError("the runs overlap, or are not in ascending order")
    edges = np.zeros(total + 1, np.int8)
    # Where runs touch, one ends where the other starts, and the two sum to 0.
    np.add.at(edges, starts, 1)
    np.subtract.at(edges, ends, 1)
    return (np.cumsum(edges[:-1]) > 0).reshape(size)


def is_kaggle_header(line: str) -> bool:
    """Whether the first line of a csv names an image and runs, by names that nothing else has."""
    names = {name.strip().strip('"').lower() for name in line.lstrip("\ufeff").split(delimiter_of(line))}
    return not names.isdisjoint(_IMAGE_COLUMNS) and not names.isdisjoint(_RUNS_COLUMNS[:2])


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Names of the columns, and (number of the line, values) of each row."""
    limit = csv.field_size_limit(2**31 - 1)  # the runs of one object may be longer than the module's limit
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            delimiter = delimiter_of(file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter)
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {path}") from None
    except (csv.Error, ValueError, OSError) as error:  # ValueError: no UTF-8
        raise ValueError(f"{path} is not a csv file: {error}") from error
    finally:
        csv.field_size_limit(limit)
    for line, row in rows:
        if len(row) != len(header):
            raise ValueError(f"{path}, line {line} has {len(row)} values; the first line has {len(header)} names")
    return header, rows


def _column(
    header: list[str], given: str | None, names: Sequence[str], what: str, path: Path, needed: bool = True
) -> int | None:
    wanted = [given.lower()] if given else names
    lower = [name.lower() for name in header]
    found = next((lower.index(name) for name in wanted if name in lower), None)
    if found is None and (needed or given):
        shown = ", ".join(header)[:200]
        raise ValueError(f"{path} has the columns {shown}; give {what}_column (--data-options {what}_column=NAME)")
    return found


def _images(
    rows: list[tuple[int, list[str]]], columns: tuple[int | None, ...], header: list[str], path: Path
) -> list[ShapeImage]:
    image_column, runs_column, class_column = columns
    assert image_column is not None and runs_column is not None  # they are needed
    both = header[image_column].lower() in _BOTH_COLUMNS
    shapes: dict[str, list[Shape]] = {}
    for line, row in rows:
        name, label = row[image_column].strip(), NAMELESS if class_column is None else row[class_column].strip()
        if both:
            name, _, label = name.rpartition("_")
        if not name or not label:
            raise ValueError(f"{path}, line {line} names no image or no class")
        runs = row[runs_column].strip()
        found = shapes.setdefault(name, [])
        if runs.lower() not in _NO_RUNS:
            found.append(Shape(f"line {line}", label, "runs", runs))
    return [ShapeImage((name,), f"{path}, image {name}", None, entries) for name, entries in shapes.items()]
