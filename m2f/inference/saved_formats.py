"""The results of a prediction's folder in the formats of other tools, put together from its records."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from m2f.data.coco_masks import decode_strip
from m2f.data.coco_writing import plain_part
from m2f.data.linked_images import link_image
from m2f.inference.output_names import UNFINISHED
from m2f.inference.prediction_folder import Entry, PredictionFolder
from m2f.output_formats.format_folder import check_replaceable, write_folder
from m2f.output_formats.format_list import format_writer
from m2f.output_formats.format_writer import FormatWriter
from m2f.output_formats.saved_image import SavedImage, SavedObject

_HASH_DIGITS = 10


def check_formats(folder: PredictionFolder, names: Sequence[str]):
    """Whether the formats may be written; before hours of prediction.

    Raises:
        ValueError: see `check_replaceable`.
    """
    for name in names:
        check_replaceable(folder.path / name)


def save_formats(
    folder: PredictionFolder,
    entries: Sequence[Entry],
    names: Sequence[str],
    id2label: Mapping[int, str],
    things: Sequence[int],
    tolerance: float,
) -> list[str]:
    """Write the results of the images that have some, and the images beside them, into a folder for each format.

    Args:
        entries: all images of the run.
        names: of formats.
        id2label: name of each class.
        things: the classes that are things.
        tolerance: of polygons, in pixels.

    Returns:
        Lines about what was written and what the formats lose.

    Raises:
        ValueError: a folder is there that may not be replaced.
        OSError: one cannot be written.
    """
    lines = []
    for name in dict.fromkeys(names):
        run = _SavingRun(folder, entries)

        def write(place: Path, name: str = name, run: "_SavingRun" = run) -> set[str]:
            return run.write(format_writer(name, place, id2label, frozenset(things), tolerance))

        write_folder(folder.path / name, UNFINISHED, write)
        lines += [f"saved {folder.path / name}: {run.images} images, {run.objects} segments", *run.lines]
    return lines


class _SavingRun:
    """Writes one format, and counts."""

    def __init__(self, folder: PredictionFolder, entries: Sequence[Entry]):
        self.folder, self.entries = folder, entries
        self.images = self.objects = self.absent = 0
        self.lines: list[str] = []

    def write(self, writer: FormatWriter) -> set[str]:
        placed = set()
        try:
            for entry, record in self.folder.records(self.entries):
                if "error" in record:
                    continue
                image = saved_image(entry, record)
                writer.add(image)
                self.images += 1
                self.objects += len(image.objects)
                if image.is_there:
                    name = str(PurePosixPath(writer.image_folder, image.file_name))
                    link_image(entry.source.location, writer.folder / name)
                    placed.add(name)
                else:
                    self.absent += 1
            writer.finish()
        finally:
            writer.close()
        self.lines = [f"  {line}" for line in writer.remarks()]
        if self.absent:
            self.lines.append(f"  images from addresses, which are not beside their labels: {self.absent}")
        return placed


def saved_image(entry: Entry, record: Mapping[str, Any]) -> SavedImage:
    """What a record has, under a file name that every format and file system can hold."""
    size = (record["size"][0], record["size"][1])
    is_there = not entry.source.is_url and os.path.isfile(entry.source.location)
    return SavedImage(_file_name(entry), size, list(_objects(record["segments"], size)), is_there)


def _objects(segments: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Iterator[SavedObject]:
    for segment in segments:
        left, top, width, height = segment["bbox"]
        strip, first = decode_strip(segment["segmentation"], *size)
        crop = strip[top : top + height, left - first : left - first + width] != 0
        box = (left, top, left + width, top + height)
        label, rle = segment["category_id"], segment["segmentation"]
        yield SavedObject(label, segment["label"], segment["score"], box, crop, rle)


def _file_name(entry: Entry) -> str:
    """The image's own where it is plain; else with a hash, so that two stay two."""
    name = entry.name + PurePosixPath(entry.source.name).suffix
    plain = "/".join(plain_part(part) or "_" for part in name.split("/"))
    if plain == name:
        return name
    path = PurePosixPath(plain)
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:_HASH_DIGITS]
    return str(path.with_name(f"{path.stem}-{digest}{path.suffix}"))
