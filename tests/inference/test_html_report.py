"""The report: numbers, escaping, no reference to anything outside. tests/browser/test_report.py looks at it in a
browser."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from object_reader import NAMES, Thing, draw, object_reader
from written_scenes import EVIL, SIZE, write_scenes

from m2f.inference.html_report import bars, render_report
from m2f.inference.image_sources import ImageSource
from m2f.inference.prediction_folder import PredictionFolder
from m2f.inference.prediction_summary import write_summary
from m2f.inference.segmenter import Segmenter


class Page(HTMLParser):
    """The tags with their attributes, and the text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def page(written) -> str:
    return (written[0].path / "report.html").read_text(encoding="utf-8")


def test_bars():
    """The highest is as high as the chart."""
    shown = bars([1, 0, 4], [(1, 1), (2, 3), (2**20, 2**21 - 1)], 12, 100)
    assert [(bar.x, bar.y, bar.height, bar.label) for bar in shown] == [
        (0, 75, 25, "1"),
        (12, 100, 0, "2"),
        (24, 0, 100, "1M"),
    ]
    assert bars([], [], 12, 100) == []


def test_everything_from_files_is_text(page):
    parsed = Page(page)
    assert EVIL in parsed.text and "<b>vessel</b>" in parsed.text and "<i>x</i>" in parsed.text
    assert "a <script> of a message" in parsed.text
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("script") == 1 and not {"b", "i"} & set(tags) - {"b"}
    assert all(not name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert sum(tag == "img" for tag in tags) == 6  # two of each image


def test_nothing_from_outside(page):
    parsed = Page(page)
    sources = [a[name] for _, a in parsed.tags for name in ("src", "href", "action", "data") if name in a]
    assert all(source.startswith(("data:", "overlays/")) for source in sources) and sources
    assert "://" not in page and "@import" not in page and "url(" not in page
    assert "//" not in "".join(source for source in sources if not source.startswith("data:"))


def test_policy_allows_the_script_alone(page):
    policy = next(a["content"] for tag, a in Page(page).tags if a.get("http-equiv") == "Content-Security-Policy")
    script = re.search(r"<script>(.*)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy


def test_links_lead_to_the_overlays(written, page):
    from urllib.parse import unquote

    folder, _ = written
    links = {a["href"] for tag, a in Page(page).tags if tag == "a"}
    assert len(links) == 3 and all((folder.path / unquote(link)).is_file() for link in links)


def test_names_that_are_no_text(tmp_path):
    """File names are bytes; those that are no UTF-8 do not stop the report."""
    folder = PredictionFolder(tmp_path / "out", {})
    folder.begin()
    entries = folder.entries([ImageSource("/in/\udcff.png", "\udcff.png")])
    model = object_reader()
    folder.write(entries[0], Segmenter(model, model.processor)(draw(SIZE, [Thing(1, 0, 0.9, 0, 0, 8, 8)])))
    write_summary(folder, entries, dict(enumerate(NAMES)), [0, 1])
    for name in ("report.html", "objects.csv"):
        assert "\\udcff.png" in (tmp_path / "out" / name).read_text(encoding="utf-8")


def test_settings():
    """1795305787 seconds after 1970 are 56.9 years; `date -u -d @1795305787` gives the time."""
    from m2f.inference.prediction_summary import Summary

    settings = {"checkpoint": "nuclei", "task": None, "checkpoint_written": 1795305787 * 10**9}
    text = Page(render_report(Summary([], [], [], [], []), settings)).text
    assert "nuclei" in text and "2026-11-22 00:03 UTC" in text and "task" not in text.split("Settings")[1]


def test_empty_report():
    from m2f.inference.prediction_summary import Summary

    page = render_report(Summary([], [], [("x", "broken")], [], []), {})
    assert "x: broken" in Page(page).text and "<table" not in page
