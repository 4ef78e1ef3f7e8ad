"""Recorded rows as one picture of bars, drawn with Pillow as the curves of a training run are."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from m2f.data.segment_overlay import distinct_colours

_WIDTH, _LABELS, _NUMBERS = 900, 330, 90  # pixels: of the picture, left of the bars, right of them
_BAR, _GAP, _MARGIN = 18, 10, 16
_STAGES = ("model", "end to end")


def draw_speed(rows: list[dict], path: Path):
    """Writes a PNG: for each recorded row of the whole model or the whole way, how many times faster than
    transformers' Mask2Former each form is, the median as a bar. Nothing where there are no such rows.

    Args:
        rows: as `m2f bench` records them.
        path: of the picture.

    Raises:
        OSError: it cannot be written.
    """
    shown = [row for row in rows if row["stage"] in _STAGES and "times_faster" in next(iter(row["forms"].values()))]
    if not shown:
        return
    names = list(dict.fromkeys(name for row in shown for name in row["forms"]))
    colours = dict(zip(names, distinct_colours(len(names)), strict=True))
    height = sum(_BAR * len(row["forms"]) + _GAP for row in shown) + 3 * _MARGIN + _BAR
    image = Image.new("RGB", (_WIDTH, height), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    draw.text((_MARGIN, _MARGIN), "times faster than transformers' Mask2Former (eager), median", "black", font)
    longest = max(found["times_faster"]["median"] for row in shown for found in row["forms"].values())
    top = 2 * _MARGIN + _BAR
    for row in shown:
        draw.text((_MARGIN, top), _title(row), "black", font)
        for name, found in row["forms"].items():
            value = found["times_faster"]["median"]
            right = _LABELS + (_WIDTH - _LABELS - _NUMBERS) * value / longest
            draw.rectangle((_LABELS, top + 2, right, top + _BAR - 2), fill=tuple(colours[name]))
            draw.text((right + 6, top + 2), f"{value:.2f} {name}", "black", font)
            top += _BAR
        top += _GAP
    image.save(path)


def _title(row: dict) -> str:
    height, width = row["size"]
    return f"{row['backbone']} {row['dtype']} {height}x{width} batch {row['batch']}, {row['stage']}"
