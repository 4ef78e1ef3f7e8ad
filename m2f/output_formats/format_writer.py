"""What the writers of the formats have in common."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m2f.output.write_errors import naming
from m2f.output_formats.saved_image import Outliner, SavedImage


class FormatWriter:
    """Writes images in one format into an empty folder.

    A subclass writes an image in `add` and what is about all of them in `finish`.

    Args:
        folder: where it writes.
        id2label: name of each class.
        outliner: makes the polygons.
    """

    image_folder = "images"  # where the format has the images, in its folder
    parts_are = ""  # what becomes of an object's parts, where polygons are written

    def __init__(self, folder: Path, id2label: Mapping[int, str], outliner: Outliner):
        self.folder, self.outliner = folder, outliner
        self.id2label = dict(sorted(id2label.items()))
        # Formats that number classes do so without gaps.
        self.number_of = {label: number for number, label in enumerate(self.id2label)}

    def add(self, image: SavedImage):
        raise NotImplementedError

    def finish(self):
        """After the last image."""

    def close(self):
        """Always, and last."""

    def remarks(self) -> Sequence[str]:
        """What people are to know of the loss."""
        return self.outliner.summary(self.parts_are)

    def write_text(self, name: str, text: str):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path):
            path.write_text(text, encoding="utf-8", newline="\n")

    def write_json(self, name: str, content: Any):
        self.write_text(name, json.dumps(content) + "\n")


class ListWriter:
    """A list in a json file, written entry by entry, so that it is never in memory as a whole.

    Args:
        start, end: of the file, around the entries.
    """

    def __init__(self, path: Path, start: str = "["):
        self.path, self._separator = path, "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path):
            self._file = path.open("w", encoding="utf-8", newline="\n")
            self._file.write(start)

    def add(self, entry: Any):
        with naming(self.path):
            self._file.write(self._separator + json.dumps(entry))
        self._separator = ",\n"

    def finish(self, end: str = "\n]\n"):
        with naming(self.path):
            self._file.write(end)
            self._file.close()

    def close(self):
        self._file.close()
