"""The report of `m2f predict` in a real browser: it renders, sorts, shows overlays, and asks for nothing."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helper there

if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
    pytest.skip("needs Chromium (apt-get install chromium)", allow_module_level=True)
pytest.importorskip("websocket", reason="needs websocket-client, of the extra test")

from devtools import Page  # noqa: E402
from object_reader import NAMES, Thing, draw, object_reader  # noqa: E402

from m2f.inference.image_sources import ImageSource  # noqa: E402
from m2f.inference.prediction_folder import PredictionFolder  # noqa: E402
from m2f.inference.prediction_summary import write_summary  # noqa: E402
from m2f.inference.segmenter import Segmenter  # noqa: E402

SIZE = (64, 96)
# Areas of 60, 508 and 2044 pixels, as corners inside the image are rounded off: by digits 2 044 would come first, then
# 508, then 60. The names too are in another order by their letters.
THINGS = {
    "10.png": [Thing(1, 0, 0.9, 8, 8, 16, 16), Thing(2, 1, 0.6, 16, 16, 48, 80)],
    "9.png": [Thing(1, 0, 0.7, 16, 16, 32, 48)],
    "<b>100.png": [],
}
AREAS = [60, 508, 2044]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The output of a prediction."""
    out = PredictionFolder(tmp_path_factory.mktemp("out"), {"checkpoint": "x"})
    out.begin()
    model = object_reader()
    predict = Segmenter(model, model.processor)
    entries = out.entries([ImageSource(f"/in/{name}", name) for name in THINGS])
    for entry, things in zip(entries, THINGS.values(), strict=True):
        out.write(entry, predict(draw(SIZE, things)))
    write_summary(out, entries, dict(enumerate(NAMES)), [0, 1])
    return out.path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Page(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser, folder) -> Page:
    """The report, opened anew, with the mouse away from all pictures."""
    browser.open((folder / "report.html").as_uri())
    browser.point_at("h1")
    return browser


def column(page: Page, table: str, number: int) -> list[str]:
    cells = f"#{table} tbody td:nth-child({number})"
    return page.evaluate(f"Array.from(document.querySelectorAll({json.dumps(cells)}), cell => cell.textContent)")


def numbers(page: Page, table: str, number: int) -> list[int]:
    return [int(text.replace("\u202f", "")) for text in column(page, table, number)]


def click_head(page: Page, table: str, number: int):
    page.point_at(f"#{table} th:nth-child({number}) button", click=True)


def opacity(page: Page, number: int) -> str:
    """Of a picture's overlay, when its change is over."""
    page.evaluate("document.getAnimations().forEach(animation => animation.finish())")
    return page.evaluate(f"getComputedStyle(document.querySelectorAll('.picture img + img')[{number}]).opacity")


def test_renders_without_a_message_or_a_request(page, folder):
    assert page.evaluate("document.title") == "m2f predict: 3 images"
    pictures = page.evaluate("Array.from(document.images, image => image.complete && image.naturalWidth > 0)")
    assert pictures == [True] * 6  # two of each image
    assert column(page, "images", 1) == list(THINGS)  # a name with markup is text
    assert page.evaluate("document.querySelector('.chart').getBoundingClientRect().height") > 100
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    messages = page.named_events("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    assert not messages
    asked = {request["request"]["url"][:5] for request in page.named_events("Network.requestWillBeSent")}
    assert asked <= {"file:", "data:"}
    files = [r["request"]["url"] for r in page.named_events("Network.requestWillBeSent")]
    assert [url for url in files if url.startswith("file:")] == [(folder / "report.html").as_uri()]


def test_the_page_forbids_what_is_not_its_own(page):
    """So that nothing in a file's name or message could load or run anything. That this test sees it shows that the
    one above would see a request."""
    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))")
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))"
    )
    assert page.evaluate("document.title") == "m2f predict: 3 images"
    messages = [entry["entry"]["text"] for entry in page.named_events("Log.entryAdded")]
    assert len([text for text in messages if "Content Security Policy" in text]) == 2


def test_size_histogram(page):
    """Bars from 32 to 2047, powers of 2: a segment in the first, fourth (256 to 511) and last one."""
    titles = page.evaluate("Array.from(document.querySelectorAll('.chart title'), title => title.textContent)")
    assert titles[0] == "32 to 63 pixels: 1" and titles[3] == "256 to 511 pixels: 1"
    assert titles[-1] == "1024 to 2047 pixels: 1" and len(titles) == 6
    heights = page.evaluate(
        "Array.from(document.querySelectorAll('.chart rect'), bar => bar.getBoundingClientRect().height)"
    )
    assert [height > 50 for height in heights] == [True, False, False, True, False, True]


def test_a_click_on_a_number_sorts_the_largest_first_then_the_smallest(page):
    for expected, direction in ((AREAS[::-1], "descending"), (AREAS, "ascending"), (AREAS[::-1], "descending")):
        click_head(page, "objects", 5)
        assert numbers(page, "objects", 5) == expected
        heads = page.evaluate("Array.from(document.querySelectorAll('#objects th'), head => head.ariaSort)")
        assert [head for head in heads if head] == [direction] and heads[4] == direction
    # The rows move as a whole.
    assert column(page, "objects", 1) == ["10.png", "9.png", "10.png"]


def test_a_click_on_names_sorts_numbers_in_them_as_numbers(page):
    click_head(page, "images", 1)
    names = column(page, "images", 1)
    assert [name for name in names if name[0].isdigit()] == ["9.png", "10.png"]
    click_head(page, "images", 1)
    assert column(page, "images", 1) == names[::-1]


def test_other_tables_stay_as_they_are(page):
    click_head(page, "images", 1)
    before = column(page, "images", 1)
    click_head(page, "objects", 5)
    assert column(page, "images", 1) == before
    assert page.evaluate("document.querySelector('#images th').ariaSort") == "ascending"


def test_pointing_at_a_picture_shows_its_segments(page):
    assert [opacity(page, number) for number in range(3)] == ["0"] * 3
    page.point_at("figure:nth-child(2) .picture")
    assert [opacity(page, number) for number in range(3)] == ["0", "1", "0"]
    page.point_at("h1")
    assert opacity(page, 1) == "0"
    page.point_at("#all", click=True)
    assert [opacity(page, number) for number in range(3)] == ["1"] * 3


def test_a_click_opens_the_overlay(page, folder):
    page.events.clear()
    page.point_at("figure:nth-child(1) .picture", click=True)
    page.wait_for("Page.loadEventFired")
    assert page.evaluate("document.images[0].naturalWidth") == SIZE[1]
    assert page.evaluate("decodeURI(location.pathname)") == str(folder / "overlays" / "10.png")
