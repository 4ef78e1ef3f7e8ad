"""Large json files, entry by entry: parsed as a whole, COCO's polygons take six times the memory of their text."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

_BLOCK = 1 << 20  # characters
_OF_NUMBERS = "0123456789.eE+-"  # and "", of which "in" says that it is in
_SPACE = re.compile(r"[ \t\n\r]*")


class NoJsonObject(ValueError):
    """A text is no json object."""


def read_entries(path: Path, keep: Callable[[str, Any], Any]) -> dict[str, Any]:
    """The content of a json file that has an object, of whose lists only what `keep` gives is kept.

    Args:
        keep: called with a key of the outermost object and each entry of the list that it has.

    Raises:
        NoJsonObject: the file has something else, or is broken. `json.loads` tells where.
    """
    with open(path, "rb") as file:
        encoding = json.detect_encoding(file.read(4))
    try:
        with open(path, encoding=encoding, errors="surrogatepass", newline="") as file:
            return dict(_members(_Text(file), keep))
    except (RecursionError, UnicodeDecodeError) as error:
        raise NoJsonObject(str(error)) from error


class _Text:
    """The text of a file from the position that has been read to."""

    def __init__(self, file: TextIO):
        self._file, self._text, self._position = file, "", 0
        self._scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # not in the types of the library

    def next_character(self) -> str:
        """The next one that is no space, which is not read yet; "" at the end."""
        while True:
            self._position = _SPACE.match(self._text, self._position).end()  # type: ignore[union-attr]  # matches ""
            if self._position < len(self._text) or not self._more():
                return self._text[self._position : self._position + 1]

    def take(self, expected: str) -> str:
        """Read one of the expected characters."""
        found = self.next_character()
        if not found or found not in expected:
            raise NoJsonObject
        self._position += 1
        return found

    def value(self) -> Any:
        """Read any json value."""
        self.next_character()
        while True:
            try:
                value, end = self._scan(self._text, self._position)
            except (StopIteration, ValueError):  # ValueError: JSONDecodeError, and too many digits of a number
                if not self._more():
                    raise NoJsonObject from None
                continue
            # At the end of the text, a number may not be whole: "1.5e-7" is scanned as 1.5 without the last character.
            if self._text[end : end + 1] not in _OF_NUMBERS or not self._more():
                self._position = end
                return value

    def _more(self) -> bool:
        """Read another block, or as much as is left of a value that is longer; False at the end."""
        rest = self._text[self._position :]
        block = self._file.read(max(_BLOCK, len(rest)))
        self._text, self._position = rest + block, 0
        return bool(block)


def _members(text: _Text, keep: Callable[[str, Any], Any]) -> Iterator[tuple[str, Any]]:
    """Keys and values of the outermost object."""
    text.take("{")
    while text.next_character() != "}":
        key = text.value()
        if not isinstance(key, str):
            raise NoJsonObject
        text.take(":")
        is_list = text.next_character() == "["
        yield key, [keep(key, entry) for entry in _entries(text)] if is_list else text.value()
        if text.take(",}") == "}":
            break
        if text.next_character() == "}":
            raise NoJsonObject
    else:
        text.take("}")
    if text.next_character():
        raise NoJsonObject


def _entries(text: _Text) -> Iterator[Any]:
    text.take("[")
    if text.next_character() == "]":
        text.take("]")
        return
    yield text.value()
    while text.take(",]") == ",":
        yield text.value()
