"""The report of a prediction: one HTML file that needs no other file and no network.

Everything that comes from files is escaped (`html_text`), and none of it gets into the script. The page's own content
security policy forbids all but that script (by its hash), its styles and the pictures in it.
"""

import base64
import hashlib
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from m2f.inference.report_template import SCRIPT, STYLE, TEMPLATE
from m2f.output.safe_text import html_text

_CHART_HEIGHT = 120
_BAR, _SMALL_BAR = 44, 6  # pixels, width
_SMALL_HEIGHT = 22


@dataclass(frozen=True)
class Bar:
    """A bar of a chart, in pixels."""

    x: int
    y: float
    width: int
    height: float
    title: str
    count: int
    label: str


def render_report(summary: Any, settings: Mapping[str, Any]) -> str:
    """The page.

    Args:
        summary: a `Summary`.
        settings: of the run, shown as they are, but for the time in nanoseconds at which the checkpoint was written.
    """
    import jinja2
    from markupsafe import Markup

    def safe(value: Any) -> Any:
        return Markup(html_text(value)) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        autoescape=True, finalize=safe, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"path": _quoted_path, "number": _number}
    total = [sum(counts) for counts in zip(*(row.histogram for row in summary.classes), strict=True)]
    return environment.from_string(TEMPLATE).render(
        summary=summary,
        settings={name: _setting(name, value) for name, value in settings.items() if value is not None},
        bars=bars(total, summary.bins, _BAR, _CHART_HEIGHT),
        small_bars=[bars(row.histogram, summary.bins, _SMALL_BAR, _SMALL_HEIGHT) for row in summary.classes],
        chart={"width": _BAR * len(total), "height": _CHART_HEIGHT},
        small_chart={"width": _SMALL_BAR * len(total), "height": _SMALL_HEIGHT},
        # Trusted: they are ours.
        style=Markup(STYLE),
        script=Markup(SCRIPT),
        script_hash=base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
    )


def bars(counts: Sequence[int], bins: Sequence[tuple[int, int]], width: int, height: int) -> list[Bar]:
    """A histogram: a bar for each bin of areas, the highest as high as the chart."""
    highest = max(counts, default=0) or 1
    return [
        Bar(
            x=place * width,
            y=height - round(height * count / highest, 1),
            width=width - max(1, width // 12),
            height=round(height * count / highest, 1),
            title=f"{first} to {last} pixels: {count}",
            count=count,
            label=_short_number(first),
        )
        for place, (count, (first, last)) in enumerate(zip(counts, bins, strict=True))
    ]


def _quoted_path(name: str) -> str:
    """A relative path as a link; names may hold any byte."""
    return urllib.parse.quote(os.fsencode(name))


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}".replace(",", "\u202f")


def _setting(name: str, value: Any) -> Any:
    if name != "checkpoint_written":
        return value
    return datetime.fromtimestamp(value / 10**9, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _short_number(value: int) -> str:
    for power, unit in ((2**30, "G"), (2**20, "M"), (2**10, "k")):
        if value >= power:
            return f"{value // power}{unit}"
    return str(value)
