"""The results of all images in one: a COCO json, a table of the segments, and the numbers that a report shows."""

import csv
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple, TextIO

from m2f.inference.html_report import render_report
from m2f.inference.output_names import write_whole
from m2f.inference.prediction_folder import COCO_JSON, OBJECTS_CSV, RANKING_CSV, REPORT, Entry, PredictionFolder
from m2f.output.safe_text import csv_cell

CSV_COLUMNS = (
    "image", "id", "class", "class_id", "score", "area", "left", "top", "width", "height",
)  # fmt: skip
RANKING_COLUMNS = ("rank", "image", "uncertainty", "objects")
_REPORT_PICTURES = 500  # each takes about 40 KB of the report
_REPORT_OBJECTS = 2000


class ImageRow(NamedTuple):
    """An image in the report; `thumbnail` and `overlay` are base64 of JPEG, empty beyond the first images."""

    name: str
    files: str  # the name of its files
    size: tuple[int, int]  # (height, width)
    objects: int
    classes: str
    mean_score: float | None
    covered: float  # share of the pixels, of segments that overlap counted twice
    thumbnail: str
    overlay: str


class ClassRow(NamedTuple):
    """A class in the report."""

    label: str
    objects: int
    images: int
    median_area: float
    mean_area: float
    mean_score: float
    histogram: list[int]  # segments by size, see `Summary.bins`


class Summary(NamedTuple):
    """What a run gave.

    failed: (location, message) of images without a result.
    areas: of all segments.
    bins: (first area, last area) of each bar of a histogram, powers of 2.
    objects: (image, segment) of the best scores.
    """

    images: list[ImageRow]
    classes: list[ClassRow]
    failed: list[tuple[str, str]]
    bins: list[tuple[int, int]]
    objects: list[tuple[str, Mapping[str, Any]]]

    @property
    def object_count(self) -> int:
        return sum(row.objects for row in self.classes)


def write_summary(
    folder: PredictionFolder,
    entries: Sequence[Entry],
    id2label: Mapping[int, str],
    things: Sequence[int],
    remarks: Mapping[str, str] | None = None,
) -> Summary:
    """Write predictions.json, objects.csv and report.html from the records, which are read once.

    Args:
        entries: all images of the run.
        id2label: name of each class.
        things: the classes that are things.
        remarks: that the report has among the settings, in place of those of their names.
    """
    categories = [
        {"id": label, "name": name, "isthing": int(label in things)} for label, name in sorted(id2label.items())
    ]
    collected = _Collected(_image_names(entries))

    def write_both(coco_path: Path):
        with coco_path.open("w", encoding="utf-8") as coco:
            write_whole(folder.path / OBJECTS_CSV, lambda csv_path: collected.write(csv_path, coco, folder, entries))
            images = json.dumps(collected.coco_images)
            coco.write(f'\n],\n"images": {images},\n"categories": {json.dumps(categories)}}}\n')

    write_whole(folder.path / COCO_JSON, write_both)
    summary = collected.summary()
    folder.write_text(REPORT, render_report(summary, {**folder.settings, **(remarks or {})}))
    return summary


def write_ranking(folder: PredictionFolder, summary: Summary):
    """Write ranking.csv: the images by their uncertainty, which is the mean of 1 - score over their segments, the
    highest first. Images without a segment, which have no score to be unsure of, are the last, with an empty cell."""

    def write(path: Path):
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(RANKING_COLUMNS)
            ranked = sorted(summary.images, key=lambda row: 2 if row.mean_score is None else row.mean_score)
            for rank, row in enumerate(ranked, start=1):
                uncertainty = "" if row.mean_score is None else round(1 - row.mean_score, 6)
                table.writerow([rank, csv_cell(row.name), uncertainty, row.objects])

    write_whole(folder.path / RANKING_CSV, write)


class _Collected:
    """Writes json and table record by record, and keeps what the report needs."""

    def __init__(self, names: Mapping[Entry, str]):
        self.names = names
        self.coco_images: list[dict[str, Any]] = []
        self._rows: list[ImageRow] = []
        self._failed: list[tuple[str, str]] = []
        self._objects: list[tuple[str, Mapping[str, Any]]] = []
        self._areas: dict[str, list[int]] = defaultdict(list)
        self._scores: dict[str, list[float]] = defaultdict(list)
        self._images_of: Counter[str] = Counter()
        self._annotations = 0

    def write(self, csv_path: Path, coco: TextIO, folder: PredictionFolder, entries: Sequence[Entry]):
        coco.write('{"annotations": [')
        with csv_path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(CSV_COLUMNS)
            for image_id, (entry, record) in enumerate(folder.records(entries), start=1):
                if "error" in record:
                    self._failed.append((entry.source.shown, record["error"]))
                    continue
                name, segments = self.names[entry], record["segments"]
                height, width = record["size"]
                self.coco_images.append({"id": image_id, "file_name": name, "width": width, "height": height})
                for segment in segments:
                    coco.write(self._annotation(segment, image_id))
                    table.writerow(_csv_row(name, segment))
                self._note(name, entry, record)

    def summary(self) -> Summary:
        highest = max((max(areas) for areas in self._areas.values()), default=0)
        bins = [(2**power, 2 ** (power + 1) - 1) for power in range(highest.bit_length())]
        first = min((min(areas).bit_length() - 1 for areas in self._areas.values()), default=0)
        classes = [
            ClassRow(
                label=label,
                objects=len(areas),
                images=self._images_of[label],
                median_area=median(areas),
                mean_area=fmean(areas),
                mean_score=fmean(self._scores[label]),
                histogram=_histogram(areas, len(bins))[first:],
            )
            for label, areas in sorted(self._areas.items(), key=lambda item: -len(item[1]))
        ]
        return Summary(self._rows, classes, self._failed, bins[first:], self._best_objects())

    def _annotation(self, segment: Mapping[str, Any], image_id: int) -> str:
        self._annotations += 1
        fields = ("category_id", "segmentation", "bbox", "area", "score", "iscrowd")
        annotation = {"id": self._annotations, "image_id": image_id, **{field: segment[field] for field in fields}}
        return ("\n" if self._annotations == 1 else ",\n") + json.dumps(annotation)

    def _note(self, name: str, entry: Entry, record: Mapping[str, Any]):
        segments = record["segments"]
        for segment in segments:
            self._areas[segment["label"]].append(segment["area"])
            self._scores[segment["label"]].append(segment["score"])
        counts = Counter(segment["label"] for segment in segments)
        self._images_of.update(counts.keys())
        has_picture = len(self._rows) < _REPORT_PICTURES
        height, width = record["size"]
        self._rows.append(
            ImageRow(
                name=name,
                files=entry.name,
                size=(height, width),
                objects=len(segments),
                classes=", ".join(f"{label} {count}" for label, count in counts.most_common()),
                mean_score=fmean(segment["score"] for segment in segments) if segments else None,
                covered=sum(segment["area"] for segment in segments) / (height * width),
                thumbnail=record["thumbnail"] if has_picture else "",
                overlay=record["overlay"] if has_picture else "",
            )
        )
        # Without the masks, which are most of a record.
        plain = [{key: value for key, value in segment.items() if key != "segmentation"} for segment in segments]
        self._objects += [(name, segment) for segment in plain]
        if len(self._objects) > 4 * _REPORT_OBJECTS:
            self._objects = self._best_objects()

    def _best_objects(self) -> list[tuple[str, Mapping[str, Any]]]:
        return sorted(self._objects, key=lambda pair: -pair[1]["score"])[:_REPORT_OBJECTS]


def _image_names(entries: Sequence[Entry]) -> dict[Entry, str]:
    """What the images are called in the results: as relative to the inputs, or where that is not unique, where they
    are; addresses that differ in what is not shown have the names of their files."""
    count = Counter(entry.source.name for entry in entries)
    places = Counter(entry.source.shown for entry in entries)
    others = {entry: entry.source.shown if places[entry.source.shown] == 1 else entry.name for entry in entries}
    return {entry: entry.source.name if count[entry.source.name] == 1 else others[entry] for entry in entries}


def _csv_row(name: str, segment: Mapping[str, Any]) -> Iterator[Any]:
    yield from (csv_cell(name), segment["id"], csv_cell(segment["label"]), segment["category_id"])
    yield from (round(segment["score"], 6), segment["area"], *segment["bbox"])


def _histogram(areas: Sequence[int], bins: int) -> list[int]:
    counts = Counter(math.frexp(area)[1] - 1 for area in areas)
    return [counts[number] for number in range(bins)]
