"""The files that name the classes of a folder of label maps."""

import csv
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m2f.data.coco_json import read_json

NAMES_FILE = "id2label.json"
# The table of ADE20K's scene parsing challenge: columns Idx, Ratio, Train, Val, Stuff, Name, separated by tabs. Its
# labels are 1 to 150 in the files, and 0 is unlabelled.
ADE20K_FILE = "objectInfo150.txt"
_HIGHEST_LABEL = 65534  # label maps have up to 16 bits


def find_class_names(folder: Path) -> tuple[dict[int, str] | None, bool]:
    """The names that a dataset's folder gives in `id2label.json` or `objectInfo150.txt`, and whether its labels are
    counted from 1, with 0 for none (True for the second file).

    Raises:
        ValueError: the file is not as it should be.
    """
    if (folder / NAMES_FILE).is_file():
        return check_names(read_json(folder / NAMES_FILE), str(folder / NAMES_FILE)), False
    if (folder / ADE20K_FILE).is_file():
        return _read_ade20k_table(folder / ADE20K_FILE), True
    return None, False


def check_names(names: Any, where: str) -> dict[int, str]:
    """Label -> name, in ascending order of the labels, from a dict or a list; keys of a json are texts.

    Raises:
        ValueError: something else, or a label that is no integer in [0, 65534].
    """
    if isinstance(names, Sequence) and not isinstance(names, str):
        names = dict(enumerate(names))
    if not isinstance(names, Mapping) or not names:
        raise ValueError(f"{where}: the class names are {type(names).__name__}; a dict or a list of names is needed")
    checked = {}
    for label, name in names.items():
        # int() would take 1.5, and "1_0" for 10.
        number = int(label) if isinstance(label, str) and label.isascii() and label.isdigit() else label
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _HIGHEST_LABEL:
            raise ValueError(f"{where}: the label {reprlib.repr(label)} is no integer from 0 to {_HIGHEST_LABEL}")
        # YAML reads a name such as 7 as a number, and no and off as False.
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise ValueError(
                f"{where}: the name of label {number} is {reprlib.repr(name)}; a text in quotes is needed"
            )
        checked[number] = str(name)
    return dict(sorted(checked.items()))


def _read_ade20k_table(path: Path) -> dict[int, str]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    if not rows or "Name" not in rows[0] or any(not row["Name"] for row in rows):
        raise ValueError(f"{path} has no column Name with a name in each row; the table of ADE20K is needed")
    return {i: row["Name"].strip() for i, row in enumerate(rows)}
