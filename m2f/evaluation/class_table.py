"""The per-class table of a metric as a csv file and as a picture."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from m2f.output.safe_text import csv_cell
from m2f.output.write_errors import naming

_ROW, _BAR, _MARGIN, _FONT_SIZE = 22, 360, 12, 13  # pixels: height of a row, length of the bar for 1
_BACKGROUND, _TEXT, _TRACK, _FILL = "#ffffff", "#202020", "#ececec", "#3a76af"


def write_class_csv(rows: Sequence[Mapping[str, Any]], path: str | Path):
    """One line for each class under a line of names; numbers that are not defined stay empty. Names are written as
    `csv_cell` says.

    Args:
        rows: what `per_class_table` returns.

    Raises:
        ValueError: no rows.
    """
    _check_not_empty(rows)
    with naming(path), open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {key: "" if _undefined(value) else csv_cell(value) for key, value in row.items()} for row in rows
        )


def write_class_chart(rows: Sequence[Mapping[str, Any]], column: str, path: str | Path):
    """A PNG of bars, the best class first, with names and numbers; classes without the number come last.

    Drawn by Pillow, because matplotlib is none of the dependencies.

    Args:
        rows: what `per_class_table` returns.
        column: a number in [0, 1] of the rows, such as "PQ", "AP" or "IoU".

    Raises:
        ValueError: no rows, or a column that they do not have.
    """
    _check_not_empty(rows)
    if column not in rows[0]:
        raise ValueError(f"the table has no column {column!r}, only {', '.join(map(str, rows[0]))}")
    chart = draw_class_chart(rows, column)
    with naming(path):
        chart.save(path, format="PNG")


def draw_class_chart(rows: Sequence[Mapping[str, Any]], column: str) -> Image.Image:
    """The picture that `write_class_chart` writes."""
    font = ImageFont.load_default(_FONT_SIZE)
    names = [str(row["name"]) for row in rows]
    left = math.ceil(max(font.getlength(name) for name in names)) + 2 * _MARGIN
    width, height = left + _BAR + 5 * _MARGIN, _ROW * (len(rows) + 1) + 2 * _MARGIN
    picture = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((left, _MARGIN), column, _TEXT, font)
    ordered = sorted(rows, key=lambda row: math.inf if _undefined(row[column]) else -row[column])
    for number, row in enumerate(ordered, start=1):
        top, value = _MARGIN + number * _ROW, row[column]
        draw.text((_MARGIN, top), str(row["name"]), _TEXT, font)
        draw.rectangle((left, top, left + _BAR - 1, top + _ROW - 6), _TRACK)
        if not _undefined(value) and value > 0:
            draw.rectangle((left, top, left + max(1, round(_BAR * value)) - 1, top + _ROW - 6), _FILL)
        draw.text((left + _BAR + _MARGIN, top), "-" if _undefined(value) else f"{value:.3f}", _TEXT, font)
    return picture


def _check_not_empty(rows: Sequence[Mapping[str, Any]]):
    if not rows:
        raise ValueError("the table has no rows; it comes from per_class_table() after evaluate()")


def _undefined(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
