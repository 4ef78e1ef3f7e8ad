"""The output folder of a prediction.

report.html          everything at a glance; needs no other file and no network
predictions.json     COCO: images, categories, and annotations with RLE masks, boxes, areas and scores
objects.csv          a row for each segment
ranking.csv          a row for each image, those that the model is unsure of first; where it is asked for
overlays/NAME.png    the image with its segments over it
labels/NAME.png      one number per pixel: the class of a semantic map, 255 or 65535 where there is none; else the
                     segment's id in objects.csv, 0 where there is none (of segments that overlap, the best one's)
records/NAME.json    the result of one image, written after its pictures; what continues a run that was interrupted
settings.json        of the run
FORMAT/              the results as another tool wants them, see m2f/output_formats

Every file is written under another name first and then renamed, so what is there is whole. The first three are put
together from the records in the end.
"""

import base64
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from m2f.image_processing.image_address import split_credentials
from m2f.inference.image_sources import ImageSource
from m2f.inference.output_names import output_names, remove_unfinished, write_whole
from m2f.inference.segment_captions import draw_captions
from m2f.inference.segmentation_result import SegmentationResult
from m2f.output.folder_lock import files_in
from m2f.output_formats.format_folder import remove_written
from m2f.output_formats.format_list import FORMATS

REPORT, COCO_JSON, OBJECTS_CSV, SETTINGS = "report.html", "predictions.json", "objects.csv", "settings.json"
RANKING_CSV = "ranking.csv"
OVERLAYS, LABELS, RECORDS = "overlays", "labels", "records"
_PROGRAM = "m2f predict"  # by which a folder is known again
_THUMBNAIL = (320, 320)  # pixels at most
_MAX_8_BITS, _MAX_16_BITS = 255, 65535


class Entry(NamedTuple):
    """An image of a run and the name of its files."""

    source: ImageSource
    name: str


class PredictionFolder:
    """Reads and writes the folder. Several processes may write the files of different images at the same time.

    Args:
        path: of the folder, which may be there and empty, or hold the results of the same settings.
        settings: on which results depend; json can write them.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path = path
        self.settings = json.loads(json.dumps(dict(settings)))  # as they are read again

    def begin(self, overwrite: bool = False):
        """Make the folder, or make it ready to go on in. One process alone does this, before any other writes.

        Args:
            overwrite: whether earlier results are removed.

        Raises:
            ValueError: it has files that a prediction did not write, or results of other settings.
            OSError: it cannot be made or written to.
        """
        try:
            present = files_in(self.path)
            self._check(present, overwrite)
            if present and overwrite:
                self._clear()
            self.path.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.path)
            self.write_text(SETTINGS, json.dumps({"program": _PROGRAM, "settings": self.settings}, indent=1) + "\n")
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise type(error)(f"cannot write into {self.path}: {error.strerror or error}{where}") from error

    def entries(self, sources: Sequence[ImageSource]) -> list[Entry]:
        """The images of a run, all of them: their names depend on each other."""
        return [Entry(source, name) for source, name in zip(sources, output_names(sources), strict=True)]

    def is_done(self, entry: Entry) -> bool:
        """Whether an image has its result, and is the same as then."""
        record = self.record(entry)
        return record is not None and "error" not in record

    def record(self, entry: Entry) -> dict[str, Any] | None:
        """What was written for an image: see `write`; or `error` after `write_failure`. None without either, or if
        the file was another one then."""
        try:
            record = json.loads(self._record_path(entry).read_text(encoding="utf-8"))
        # A file that is no json is left by a machine that lost its power; the image is done again.
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        is_own = isinstance(record, dict) and record.get("source") == _state(entry.source)
        return record if is_own else None

    def write(self, entry: Entry, result: SegmentationResult):
        """The files of an image, its record last.

        Raises:
            OSError: they cannot be written.
            ValueError: more segments than fit into a PNG.
        """
        labels, overlay = label_picture(result), result.plot(captions=False)
        small = thumbnail(overlay)  # in which nobody could read captions
        draw_captions(overlay, result.segments, result.colours())
        write_whole(self.path / LABELS / f"{entry.name}.png", labels.save)
        # Level 1 takes a third of the time of Pillow's 6, for a tenth more bytes.
        picture = self.path / OVERLAYS / f"{entry.name}.png"
        write_whole(picture, lambda path: overlay.save(path, compress_level=1))
        pairs = zip(result.segments, result.to_coco(), strict=True)
        record = {
            "source": _state(entry.source),
            "size": list(result.size),
            "segments": [
                {"id": segment.id, "label": segment.label, "is_thing": segment.is_thing, **annotation}
                for segment, annotation in pairs
            ],
            "thumbnail": thumbnail(result.image),
            "overlay": small,
        }
        self._write_record(entry, record)

    def write_failure(self, entry: Entry, message: str):
        """That an image has no result, and why; a later run tries again."""
        self._write_record(entry, {"source": _state(entry.source), "error": message})

    def records(self, entries: Sequence[Entry]) -> Iterator[tuple[Entry, dict[str, Any]]]:
        """The record of each image, read one at a time: with masks and pictures they are large."""
        for entry in entries:
            record = self.record(entry)
            yield entry, record or {"error": "has no result: it changed, or its process ended"}

    def write_text(self, name: str, text: str):
        # File names may hold bytes that are no UTF-8.
        write_whole(self.path / name, lambda path: path.write_text(text, "utf-8", "backslashreplace", newline="\n"))

    def _write_record(self, entry: Entry, record: Mapping[str, Any]):
        write_whole(self._record_path(entry), lambda path: path.write_text(json.dumps(record), encoding="utf-8"))

    def _record_path(self, entry: Entry) -> Path:
        return self.path / RECORDS / f"{entry.name}.json"

    def _check(self, present: Sequence[str], overwrite: bool):
        if not present:
            return
        try:
            former = json.loads((self.path / SETTINGS).read_text(encoding="utf-8"))
            settings = former["settings"] if former["program"] == _PROGRAM else None
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            settings = None
        if settings is None:
            found = ", ".join(present[:5]) + (", ..." if len(present) > 5 else "")
            raise ValueError(
                f"{self.path} holds files that {_PROGRAM} did not write ({found}); choose another --output"
            )
        differing = [name for name in self.settings if settings.get(name) != self.settings[name]]
        if differing and not overwrite:
            name = differing[0]
            raise ValueError(
                f"{self.path} has results of other settings ({name}: {settings.get(name)}, now "
                f"{self.settings[name]}); choose another --output, or --overwrite"
            )

    def _clear(self):
        for name in (REPORT, COCO_JSON, OBJECTS_CSV, RANKING_CSV, OVERLAYS, LABELS, RECORDS):
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for name in FORMATS:
            remove_written(self.path / name)


def label_picture(result: SegmentationResult) -> Image.Image:
    """One number per pixel, in 8 bits or 16; see the top of this file.

    Raises:
        ValueError: 16 bits are not enough.
    """
    if result.task == "semantic":
        numbers, highest = result.label_map, max(result.id2label, default=0)
        nothing = _MAX_8_BITS if highest < _MAX_8_BITS else _MAX_16_BITS
        numbers, highest = np.where(numbers < 0, nothing, numbers), max(highest, nothing)
    else:
        numbers = result.id_map
        highest = max((segment.id for segment in result.segments), default=0)
    if highest > _MAX_16_BITS:
        raise ValueError(f"segments or classes up to {highest} do not fit into a PNG; {_MAX_16_BITS} do")
    return Image.fromarray(numbers.astype(np.uint8 if highest <= _MAX_8_BITS else np.uint16))


def thumbnail(image: Image.Image) -> str:
    """A small JPEG of an image, as base64."""
    small = image.copy() if max(image.size) <= max(_THUMBNAIL) else image.reduce(_reduction(image.size))
    small.thumbnail(_THUMBNAIL)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _reduction(size: tuple[int, int]) -> int:
    """The whole number by which an image is made smaller first, in a quick way: twice what is needed is left."""
    return max(1, min(max(size) // (2 * max(_THUMBNAIL)), *size))


def _state(source: ImageSource) -> dict[str, Any]:
    """By which an image is known again."""
    if source.is_url:
        address = hashlib.sha256(split_credentials(source.location)[0].encode()).hexdigest()
        return {"location": source.shown, "address": address[:16]}  # two may differ in the query alone
    location = os.path.realpath(source.location)
    try:
        status = os.stat(location)
    except OSError:
        return {"location": location}
    return {"location": location, "bytes": status.st_size, "modified": status.st_mtime_ns}
