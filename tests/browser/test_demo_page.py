"""`m2f demo` in a real browser: the page renders, segments the bundled picture, and says what is wrong."""

import json
import shutil
import sys
import time
import urllib.request
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helper there

if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
    pytest.skip("needs Chromium (apt-get install chromium)", allow_module_level=True)
pytest.importorskip("websocket", reason="needs websocket-client, of the extra test")
pytest.importorskip("gradio")

from devtools import Page  # noqa: E402

import m2f  # noqa: E402
from m2f.checkpoints.bundled_checkpoint import checkpoint_location  # noqa: E402
from m2f.commands.demo import EXAMPLE, free_port  # noqa: E402
from m2f.inference.demo_page import launch, make_page  # noqa: E402

PICTURE = Path(checkpoint_location(None)) / EXAMPLE


@pytest.fixture(scope="module")
def demo():
    page = make_page(["nuclei"], "cpu", "float32", [PICTURE])
    yield launch(page, "127.0.0.1", free_port("127.0.0.1"))
    page.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Page(tmp_path_factory.mktemp("profile"), (1280, 1100))
    yield browser
    browser.close()


def wait_until(browser: Page, expression: str):
    deadline = time.monotonic() + 120
    while not browser.evaluate(expression):
        assert time.monotonic() < deadline, browser.evaluate("document.body.innerText")
        time.sleep(0.1)


CELLS = (
    "Array.from(document.querySelectorAll('#table [role=row]'), row => row.innerText.split(/\\s+/).filter(Boolean))"
)


def test_the_bundled_picture_is_segmented(demo, browser, tmp_path):
    browser.open(demo)
    wait_until(browser, "document.querySelector('#segment') !== null")
    browser.point_at("#segment", click=True)
    wait_until(browser, "document.body.innerText.includes('drop a picture first')")
    for shown in (True, False):
        browser.point_at("#own-thresholds input", click=True)
        wait_until(browser, f"document.body.innerText.includes('mask threshold') === {str(shown).lower()}")
    browser.point_at("#examples button, #examples .gallery-item", click=True)
    wait_until(browser, "document.querySelectorAll('.image-frame img, .image-container img').length > 0")
    browser.point_at("#segment", click=True)
    wait_until(
        browser, "document.querySelector('#overlay img') !== null && document.querySelector('#json a') !== null"
    )
    wait_until(browser, "document.querySelector('#overlay img').naturalWidth > 0")
    size = browser.evaluate("(i => [i.naturalWidth, i.naturalHeight])(document.querySelector('#overlay img'))")
    expected = m2f.Segmenter.from_pretrained("nuclei", device="cpu")(str(PICTURE))
    assert tuple(size) == expected.size[::-1]
    wait_until(browser, "document.querySelectorAll('#table [role=row]').length > 2")
    rows = browser.evaluate(CELLS)
    assert ["1", "nucleus", f"{round(expected.segments[0].score, 3):g}", str(expected.segments[0].area)] in rows
    with urllib.request.urlopen(browser.evaluate("document.querySelector('#json a').href")) as answer:
        content = json.load(answer)
    assert len(content["annotations"]) == len(expected)
    assert content["categories"] == [{"id": 0, "name": "nucleus"}]
    failures = browser.named_events("Runtime.exceptionThrown")
    errors = [entry["entry"] for entry in browser.named_events("Log.entryAdded") if entry["entry"]["level"] == "error"]
    assert not failures and not errors, (failures, errors)
    asked = {request["request"]["url"] for request in browser.named_events("Network.requestWillBeSent")}
    assert {url for url in asked if not url.startswith((demo, "data:", "blob:"))} == set()
