"""One picture of a dataset: images with their labels over them, the worst findings and the rarest classes first."""

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from m2f.data.check_report import CheckReport
from m2f.data.image_inspection import READING_ERRORS, Finding, ImageRecord
from m2f.data.image_reading import ImageFile
from m2f.data.segment_map import Sample
from m2f.data.segment_overlay import distinct_colours, draw_segment_map
from m2f.data.segmentation_dataset import SegmentationDataset
from m2f.image_processing.band_image import picture_of
from m2f.image_processing.channel_counts import USUAL_CHANNELS

_COLUMNS = 6
_LINE = 14  # pixels, height of a line of text
_GAP = 6
_MARK = {"error": "red", "warning": "red", "note": "darkorange"}
_LEGEND_ENTRY = 190  # pixels, width
_UNKNOWN_CLASS = np.array([255, 255, 255], np.uint8)


class Choice(NamedTuple):
    """An image for the sheet and why it is there."""

    record: ImageRecord
    reason: str
    finding: Finding | None = None


def choose_images(report: CheckReport, count: int) -> list[Choice]:
    """At most `count` different images: up to half of them with findings, then such that all classes are seen.

    Findings: one image of each kind in turn, the worst kind first. Classes: the one seen least so far, of several the
    one in the fewest images; its images are taken from those with much of it to those with little.
    """
    chosen: dict[tuple[str, int], Choice] = {}
    for choice in _with_findings(report):
        if len(chosen) >= (count + 1) // 2:
            break
        chosen.setdefault((choice.record.split, choice.record.index), choice)
    for choice in _with_classes(report, chosen):
        if len(chosen) >= count:
            break
        chosen[choice.record.split, choice.record.index] = choice
    for record in report.records:  # images without a segment, and what is left of the findings
        if len(chosen) >= count:
            break
        chosen.setdefault((record.split, record.index), Choice(record, "" if record.size else "cannot be read"))
    return list(chosen.values())


def _with_findings(report: CheckReport) -> Iterator[Choice]:
    records = {(record.split, record.name): record for record in report.records}
    lists = []
    for findings in report.by_kind().values():
        about_images = [finding for finding in findings if (finding.split, finding.name) in records]
        lists.append(iter(about_images))
    while lists:
        for left in list(lists):
            finding = next(left, None)
            if finding is None:
                lists.remove(left)
            else:
                yield Choice(records[finding.split, finding.name], f"{finding.kind}: {finding.message}", finding)


def _with_classes(report: CheckReport, chosen: dict[tuple[str, int], Choice]) -> Iterator[Choice]:
    """Images that are not among `chosen`, which grows while this runs."""
    by_class: dict[int, list[ImageRecord]] = defaultdict(list)
    for record in report.records:
        for label in record.classes:
            by_class[label].append(record)
    for label, records in by_class.items():
        records.sort(key=lambda record: -record.classes[label][1] / math.prod(record.size or ()))
    seen = Counter(label for choice in chosen.values() for label in choice.record.classes)
    left = {label: list(records) for label, records in by_class.items()}
    turn: Counter[int] = Counter()
    while left:
        label = min(left, key=lambda label: (seen[label], len(by_class[label]), label))
        record = left[label].pop(int(_spread(turn[label]) * len(left[label])))
        turn[label] += 1
        if not left[label]:
            del left[label]
        if (record.split, record.index) not in chosen:
            seen.update(list(record.classes))
            name = report.id2label.get(label, f"class {label}")
            yield Choice(record, f"{name}: in {len(by_class[label])} of {len(report.records)} images")


def _spread(number: int) -> float:
    """0, 1/2, 1/4, 3/4, 1/8, ...: the van der Corput sequence, evenly over [0, 1) from any start on."""
    value, step = 0.0, 0.5
    while number:
        number, bit = divmod(number, 2)
        value, step = value + bit * step, step / 2
    return value


def draw_contact_sheet(report: CheckReport, count: int = 24, cell: int = 256) -> Image.Image:
    """A picture of `choose_images`, each with its name and the reason, and the names of the classes that are seen.

    A class has one colour. The segment that a finding is about has a frame; ignored pixels are hatched.

    Args:
        count: images at most.
        cell: width and height of each in pixels.
    """
    choices = choose_images(report, count)
    cells = [_draw_cell(report, choice, cell) for choice in choices] or [Image.new("RGB", (cell, cell), "white")]
    columns = min(_COLUMNS, len(cells))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    tops = [_GAP + sum(max(p.height for p in row) + _GAP for row in rows[:number]) for number in range(len(rows) + 1)]
    legend = _draw_legend(report, choices, columns * (cell + _GAP) + _GAP)
    sheet = Image.new("RGB", (legend.width, tops[-1] + legend.height), "white")
    for top, row in zip(tops, rows, strict=False):
        for column, picture in enumerate(row):
            sheet.paste(picture, (_GAP + column * (cell + _GAP), top))
    sheet.paste(legend, (0, tops[-1]))
    return sheet


def _draw_cell(report: CheckReport, choice: Choice, cell: int) -> Image.Image:
    record, finding = choice.record, choice.finding
    image, scale = _draw_image(report.readers[record.split], record, report.id2label, cell)
    if finding is not None and finding.box is not None:
        box, draw = [edge * scale for edge in finding.box], ImageDraw.Draw(image)
        # White around the colour, to be seen on any class.
        for distance, colour in ((6, "white"), (4, _MARK[finding.severity])):
            frame = (box[0] - distance, box[1] - distance, box[2] + distance - 1, box[3] + distance - 1)
            draw.rectangle(frame, outline=colour, width=2)
    picture = Image.new("RGB", (cell, image.height + 2 * _LINE), "white")
    picture.paste(image, (0, 2 * _LINE))
    _write(picture, (0, 0), _ending(f"{record.split}: {record.name}", cell), "black")
    _write(picture, (0, _LINE), _beginning(choice.reason, cell), _MARK[finding.severity] if finding else "grey")
    return picture


def _draw_image(
    reader: SegmentationDataset, record: ImageRecord, id2label: dict[int, str], cell: int
) -> tuple[Image.Image, float]:
    """The image with its labels, at most cell x cell pixels, and the scale; crossed out where it cannot be read."""
    if record.size is None:
        return _draw_unreadable(reader, record, cell), 1.0
    sample = reader[record.index]
    scale = min(cell / sample.image.width, cell / sample.image.height)
    width, height = (max(1, round(side * scale)) for side in sample.image.size)
    ids = sample.segments.ids[:, _nearest(sample.image.height, height)[:, None], _nearest(sample.image.width, width)]
    return draw_segment_map(sample.image.resize((width, height)), ids, _segment_colours(sample, id2label)), scale


def _draw_unreadable(reader: SegmentationDataset, record: ImageRecord, cell: int) -> Image.Image:
    image, path = Image.new("RGB", (cell, cell), "lightgrey"), reader.image_path(record.index)
    deadly = any(finding.kind == "dead worker" for finding in record.findings)
    try:
        if path is not None and not deadly:
            white_level, num_channels = (getattr(reader, name, None) for name in ("white_level", "num_channels"))
            image = picture_of(ImageFile(path, record.name, white_level, num_channels or USUAL_CHANNELS).upright()[0])
            image.thumbnail((cell, cell))
    except READING_ERRORS:
        pass  # the grey field says so
    draw = ImageDraw.Draw(image)
    draw.line((0, 0, *image.size), fill="red", width=2)
    draw.line((0, image.height, image.width, 0), fill="red", width=2)
    return image


def _nearest(length: int, new_length: int) -> np.ndarray:
    """(new_length,) indices in [0, length) of the nearest pixels' centres."""
    return ((np.arange(new_length) + 0.5) * length / new_length).astype(np.int64)


def _segment_colours(sample: Sample, id2label: dict[int, str]) -> np.ndarray:
    colours = _class_colours(id2label)
    chosen = [colours.get(label, _UNKNOWN_CLASS) for label in sample.segments.class_ids.tolist()]
    return np.array(chosen, np.uint8).reshape(-1, 3)


def _class_colours(id2label: dict[int, str]) -> dict[int, np.ndarray]:
    return dict(zip(sorted(id2label), distinct_colours(len(id2label)), strict=True))


def _draw_legend(report: CheckReport, choices: list[Choice], width: int) -> Image.Image:
    colours = _class_colours(report.id2label)
    counts: Counter[int] = Counter()
    for summary in report.splits.values():
        counts.update(summary.class_segments)
    shown = sorted({label for choice in choices for label in choice.record.classes})
    columns = max(1, (width - _GAP) // _LEGEND_ENTRY)
    legend = Image.new("RGB", (width, -(-len(shown) // columns) * _LINE + _GAP), "white")
    draw = ImageDraw.Draw(legend)
    for position, label in enumerate(shown):
        row, column = divmod(position, columns)
        left, top = _GAP + column * _LEGEND_ENTRY, row * _LINE
        draw.rectangle((left, top + 2, left + 10, top + 12), fill=tuple(colours.get(label, _UNKNOWN_CLASS).tolist()))
        text = f"{report.id2label.get(label, f'unknown class {label}')} ({counts[label]})"
        _write(legend, (left + 15, top), _beginning(text, _LEGEND_ENTRY - 20), "black")
    return legend


@functools.cache
def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default()


def _write(picture: Image.Image, position: tuple[int, int], text: str, colour: str):
    ImageDraw.Draw(picture).text(position, text, fill=colour, font=_font())


def _beginning(text: str, width: int) -> str:
    """As much of the text as fits into `width` pixels, from its beginning on."""
    # Pillow's own font has no other letters, and without FreeType it refuses them.
    text = text.encode("latin-1", "replace").decode("latin-1")
    if _font().getlength(text) <= width:
        return text
    lengths = range(min(len(text), width), 0, -1)  # a letter is at least a pixel wide
    return next((text[:end] + "..." for end in lengths if _font().getlength(text[:end] + "...") <= width), "")


def _ending(text: str, width: int) -> str:
    """As much of the text as fits, up to its end: of a path this is the file's name."""
    return _beginning(text[::-1], width)[::-1]
