"""The json files of COCO's formats: sections of entries with ids (https://cocodataset.org/#format-data)."""

import contextlib
import json
import marshal
import os
import reprlib
from array import array
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from m2f.data.coco_values import settle_values
from m2f.data.dataset_paths import find_folder
from m2f.data.json_entries import NoJsonObject, read_entries
from m2f.data.named_files import NamedFiles


class Rule(NamedTuple):
    """What the value of a key must be."""

    holds: Callable[[Any], bool]
    expected: str


def is_integer(value: Any) -> TypeGuard[int]:
    """True and False are no integers here."""
    return isinstance(value, int) and not isinstance(value, bool)


INTEGER = Rule(is_integer, "an integer")
EXTENT = Rule(lambda value: is_integer(value) and value > 0, "an integer above 0")
ID = Rule(lambda value: is_integer(value) or isinstance(value, str), "an integer or a text")
TEXT = Rule(lambda value: isinstance(value, str) and value != "", "a text")
FLAG = Rule(lambda value: value is None or (isinstance(value, int) and value in (0, 1)), "0 or 1")
LIST = Rule(lambda value: isinstance(value, list), "a list")
ANYTHING = Rule(lambda value: True, "")

IMAGE_RULES = {"id": ID, "file_name": TEXT, "height": EXTENT, "width": EXTENT}
CATEGORY_RULES = {"id": INTEGER, "name": TEXT}


class CocoImage(NamedTuple):
    """An entry of "images"."""

    id: int | str
    file_name: str
    height: int
    width: int


class PackedLists:
    """Values of json, mostly lists, as one block of bytes, each decoded when it is asked for.

    Parsed polygons take several times the memory of their text, and in each worker process of a data loader once more,
    because counting references writes to them. marshal packs 10 times as fast as json.

    Args:
        lists: of what json has, or tuples.
        where: what messages call their source.

    Raises:
        ValueError: a list is nested too deeply.
    """

    def __init__(self, lists: Iterable[Any], where: str):
        self._where, self._bytes, self._ends = where, bytearray(), array("q", [0])
        for values in lists:
            self.append(values)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        position = range(len(self))[index]
        return marshal.loads(self._bytes[self._ends[position] : self._ends[position + 1]])

    def append(self, value: Any) -> int:
        """Add a value; its index."""
        try:
            self._bytes += marshal.dumps(value)
        except ValueError as error:
            raise ValueError(f"{self._where} has lists that are nested too deeply: {error}") from error
        self._ends.append(len(self._bytes))
        return len(self) - 1


# Given the section and an entry of it: what is kept of the entry.
Keep = Callable[[str, Any], Any]


def read_json(path: Path, keep: Keep | None = None) -> Any:
    """The content of a json file.

    Args:
        keep: where the content is an object, each entry of the lists in it is replaced by what this gives for it, one
            after the other, so that the memory of what is not kept is free again before the rest is read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no json.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no such file: {path}")
    if keep is not None:
        with contextlib.suppress(NoJsonObject, OSError):
            return read_entries(path, keep)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:  # ValueError: JSONDecodeError and UnicodeDecodeError
        raise ValueError(f"{path} is not a json file: {error}") from error


def read_sections(
    path: Path, rules: Mapping[str, Mapping[str, Rule]], kind: str, keep: Keep | None = None
) -> dict[str, list[dict]]:
    """The content of a COCO json whose sections have the given keys; values of other tools are settled, see
    `settle_values`.

    Args:
        rules: section -> key -> what its value must be.
        kind: what messages call such a file.
        keep: see `read_json`; what it keeps is held against the rules.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such json.
    """
    content = read_json(path, keep)
    for section in rules:
        if not isinstance(content, dict) or not isinstance(content.get(section), list):
            raise ValueError(f"{path} has no list {section!r}; a {kind} json has {', '.join(rules)}")
    settle_values(content)
    for section, keys in rules.items():
        check_entries(content[section], keys, f"{path}: {section!r}")
    return content


def check_entries(entries: list, rules: Mapping[str, Rule], where: str):
    """Whether each entry is a dict with the keys of `rules` and values as they say.

    Raises:
        ValueError: one is not; its id is in the message.
    """
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{where}, number {position} is {reprlib.repr(entry)}; a dict is needed")
        for key, rule in rules.items():
            if key not in entry and rule is not FLAG:
                raise ValueError(f"{where}, {_name(entry, position)} has no {key!r}")
            if not rule.holds(entry.get(key)):
                found = f"{key!r} is {reprlib.repr(entry[key])}"
                raise ValueError(f"{where}, {_name(entry, position)}: {found}; {rule.expected} is needed")


def by_id(entries: list[dict], where: str) -> dict[int | str, dict]:
    """The entries by their ids.

    Raises:
        ValueError: an id appears twice.
    """
    found: dict[int | str, dict] = {}
    for entry in entries:
        if entry["id"] in found:
            raise ValueError(f"{where}: id {entry['id']} appears more than once")
        found[entry["id"]] = entry
    return found


def coco_images(content: Mapping[str, list[dict]], path: Path) -> list[CocoImage]:
    """The images of a COCO json, without what only describes them.

    Raises:
        ValueError: an id appears twice.
    """
    by_id(content["images"], f"{path}: 'images'")
    return [CocoImage(*(entry[key] for key in CocoImage._fields)) for entry in content["images"]]


def coco_image_files(
    images: list[CocoImage], path: Path, folder: str | Path | None, leave_out: Path | None = None
) -> tuple[list[CocoImage], NamedFiles]:
    """The images, each with its path in the folder as `file_name`, and their files.

    Args:
        folder: where they are; None: the folder with the images that a json names, of which `leave_out` is none.

    Raises:
        FileNotFoundError: no folder has them.
        ValueError: several have them, or an image is outside it.
    """
    if folder is None and not images:
        raise ValueError(f"{path} lists no image")
    if folder is None:
        folder = find_folder([image.file_name for image in images], path, "image_folder", leave_out)
    files = NamedFiles(Path(folder))
    names = (files.add(image.file_name, f"{path}, image {image.id}") for image in images)
    return [image._replace(file_name=name) for image, name in zip(images, names, strict=True)], files


def _name(entry: dict, position: int) -> str:
    return f"id {entry['id']}" if ID.holds(entry.get("id")) else f"number {position}"
