"""Tables of the colours that label pictures show classes in, and such pictures as label maps."""

import csv
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from m2f.data.csv_delimiter import delimiter_of
from m2f.data.label_maps import read_channels
from m2f.image_processing.label_values import IGNORED

# What tables are called: CVAT's and Datumaro's, CamVid's, and those of copies of it.
TABLE_FILES = (
    "labelmap.txt",
    "label_colors.txt",
    "class_dict.csv",
    "colours.csv",
    "colors.csv",
    "colours.txt",
    "colors.txt",
)
# Classes that stand for pixels nobody labelled.
UNKNOWN_NAMES = ("void", "unlabelled", "unlabeled", "ignore", "ignored", "__ignore__")
_SHOWN = 5
_COLUMNS = (("r", "red"), ("g", "green"), ("b", "blue"))

Colour = tuple[int, int, int]


class ColourTable:
    """Classes by their colours.

    Args:
        colours: (colour, name) in the order of the classes.
        where: what messages call the table.
        ignore: names of classes whose pixels are unknown, in any case; by default "void", "unlabelled", "unlabeled",
            "ignore", "ignored", "__ignore__".

    Raises:
        ValueError: no class, a name or a colour that appears twice, or one outside 0..255.
    """

    def __init__(self, colours: Sequence[tuple[Colour, str]], where: str, ignore: Iterable[str] = UNKNOWN_NAMES):
        self.where = where
        unknown = {name.lower() for name in ignore}
        names = [name for _, name in colours if name.lower() not in unknown]
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"{where} has {'a name twice' if names else 'no class'}")
        self.names = dict(enumerate(names))
        self._class_of: dict[int, int] = {}
        for colour, name in colours:
            if not all(0 <= value <= 255 for value in colour):
                raise ValueError(f"{where}: the colour {colour} of {name[:80]!r} is outside 0 to 255")
            if _code(colour) in self._class_of:
                raise ValueError(f"{where} has the colour {colour} twice")
            self._class_of[_code(colour)] = IGNORED if name.lower() in unknown else names.index(name)

    def add_unknown(self, colour: Colour):
        """Pixels of this colour are unknown, unless the table has it already."""
        self._class_of.setdefault(_code(colour), IGNORED)

    def classes(self, source: Path | bytes, name: str) -> np.ndarray:
        """(H, W) int32 classes, or `IGNORED`, of a label picture.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is damaged or grey, or has colours that the table lacks; the message counts their pixels.
        """
        channels = read_channels(source, name).astype(np.int32)
        codes = (channels[..., 0] << 16) + (channels[..., 1] << 8) + channels[..., 2]
        known = np.array(sorted(self._class_of), np.int32)
        place = np.searchsorted(known, codes).clip(max=len(known) - 1)
        wrong = codes[known[place] != codes]
        if wrong.size:
            values, counts = np.unique(wrong, return_counts=True)
            order = np.argsort(-counts, kind="stable")[:_SHOWN]
            shown = ", ".join(f"{_colour(int(values[i]))} ({counts[i]} pixels)" for i in order)
            more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
            raise ValueError(f"{name} has the colours {shown}{more}, which {self.where} lacks")
        return np.array([self._class_of[code] for code in known.tolist()], np.int32)[place]


def find_colour_table(folder: Path) -> Path | None:
    """The table in a dataset's folder."""
    return next((folder / name for name in TABLE_FILES if os.path.isfile(folder / name)), None)


def read_colour_table(path: Path, ignore: Iterable[str] = UNKNOWN_NAMES) -> ColourTable:
    """A table in one of three forms: CVAT's "name:r,g,b:parts:actions", CamVid's "r g b name", or a csv with a first
    line that names the columns name, r, g, b in any order. Lines that begin with # are comments.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that has none of these forms, or what `ColourTable` raises.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no such file: {path}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:  # ValueError: no UTF-8
        raise ValueError(f"cannot read {path}: {error}") from error
    kept = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip() and line.strip()[0] != "#"]
    delimiter = delimiter_of(kept[0][1]) if kept else ","
    columns = _columns(kept[0][1], delimiter) if kept else None
    if columns is None:
        rows = [_entry(line, f"{path}, line {number}") for number, line in kept]
    else:
        rows = [_csv_entry(line, columns, delimiter, f"{path}, line {number}") for number, line in kept[1:]]
    return ColourTable(rows, str(path), ignore)


def _entry(line: str, where: str) -> tuple[Colour, str]:
    cvat = re.fullmatch(r"([^:]+):(\d{1,9}),(\d{1,9}),(\d{1,9})(:.*)?", line, re.ASCII)
    if cvat:
        return (int(cvat[2]), int(cvat[3]), int(cvat[4])), cvat[1].strip()
    camvid = re.fullmatch(r"(\d{1,9})[\s,]+(\d{1,9})[\s,]+(\d{1,9})[\s,]+(\S.*)", line, re.ASCII)
    if not camvid:
        raise ValueError(f"{where} is {line[:60]!r}; NAME:R,G,B:: or R G B NAME is needed")
    return (int(camvid[1]), int(camvid[2]), int(camvid[3])), camvid[4].strip()


def _columns(line: str, delimiter: str) -> list[int] | None:
    """Places of the name and the three channels; None: the line names no columns."""
    names = [name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter))]
    found = [next((names.index(name) for name in choice if name in names), -1) for choice in _COLUMNS]
    named = next((i for i, name in enumerate(names) if name in ("name", "class", "label")), -1)
    return None if -1 in (named, *found) else [named, *found]


def _csv_entry(line: str, columns: list[int], delimiter: str, where: str) -> tuple[Colour, str]:
    values = [value.strip() for value in next(csv.reader([line], delimiter=delimiter))]
    if len(values) <= max(columns) or not all(re.fullmatch(r"\d{1,9}", values[i], re.ASCII) for i in columns[1:]):
        raise ValueError(f"{where} is {line[:60]!r}; a name and three numbers are needed")
    name, red, green, blue = (values[i] for i in columns)
    return (int(red), int(green), int(blue)), name


def _code(colour: Colour) -> int:
    return (colour[0] << 16) + (colour[1] << 8) + colour[2]


def _colour(code: int) -> Colour:
    return code >> 16, code >> 8 & 255, code & 255
