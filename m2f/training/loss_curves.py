"""Curves of a run as one picture, drawn with Pillow: a plotting library would be a dependency for this alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from m2f.data.segment_overlay import distinct_colours
from m2f.output.write_errors import naming

_WIDTH, _HEIGHT = 560, 300  # pixels of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 28, 34  # its margins
_TICKS = 5
_LEGEND_GAP = 14
_GREY = (205, 205, 205)
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One chart: lines over the same axes.

    Args:
        title: above it.
        lines: name -> points (x, y); those that are not finite are left out.
    """

    title: str
    lines: Mapping[str, Points]


def draw_panels(panels: Sequence[Panel], path: Path):
    """Writes a PNG with the panels that have a point, one below the other.

    Raises:
        OSError: it cannot be written.
    """
    finite = [Panel(p.title, {name: _finite(points) for name, points in p.lines.items()}) for p in panels]
    shown = [panel for panel in finite if any(panel.lines.values())]
    if not shown:
        return
    sheet = Image.new("RGB", (_WIDTH, _HEIGHT * len(shown)), "white")
    for number, panel in enumerate(shown):
        sheet.paste(_draw(panel), (0, _HEIGHT * number))
    with naming(path):
        sheet.save(path)


def ticks(low: float, high: float) -> list[float]:
    """At most six round numbers (1, 2 or 5 times a power of ten apart) from within [low, high]."""
    if high <= low:
        return [low]
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _draw(panel: Panel) -> Image.Image:
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    points = [point for line in panel.lines.values() for point in line]
    (left, right), (low, high) = (_range(axis) for axis in zip(*points, strict=True))

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - left) / (right - left), (y - low) / (high - low)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    draw.text((_LEFT, 8), panel.title, fill="black", font=font)
    for y in ticks(low, high):
        draw.line([place(left, y), place(right, y)], fill=_GREY)
        draw.text((_LEFT - 6, place(left, y)[1]), f"{y:.4g}", fill="black", font=font, anchor="rm")
    for x in ticks(left, right):
        draw.text((place(x, low)[0], _HEIGHT - _BOTTOM + 6), f"{x:.6g}", fill="black", font=font, anchor="ma")
    colours = [tuple(int(part * 0.75) for part in colour) for colour in distinct_colours(len(panel.lines))]
    legend: float = _WIDTH - _RIGHT
    for (name, line), colour in zip(panel.lines.items(), colours, strict=True):
        draw.text((legend, 8), name, fill=colour, font=font, anchor="ra")
        legend -= draw.textlength(name, font=font) + _LEGEND_GAP
        _draw_line(draw, [place(*point) for point in line], colour)
    return image


def _draw_line(draw: ImageDraw.ImageDraw, places: list[tuple[float, float]], colour: tuple[int, ...]):
    if len(places) == 1:
        (x, y) = places[0]
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=colour)
    elif places:
        draw.line(places, fill=colour, width=2)


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """With some room where all are equal."""
    low, high = min(values), max(values)
    if low == high:
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    return low, high
