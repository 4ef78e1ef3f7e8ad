"""A page in a headless Chromium, by the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import websocket

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_SECONDS = 60  # for anything to happen


class Page:
    """An empty page; `close` ends the browser.

    Args:
        profile: an empty folder for the browser's files.
        size: (width, height) of the window.
    """

    def __init__(self, profile: Path, size: tuple[int, int] = (1280, 900)):
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        options += [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "about:blank"]
        self._process = subprocess.Popen([BROWSER, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        try:
            self._socket = websocket.create_connection(self._address(profile), _SECONDS, suppress_origin=True)
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def open(self, url: str):
        """Go to an address; the events of the page before are forgotten."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command; what happened meanwhile goes into `events`."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript, which json can write."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def point_at(self, selector: str, click: bool = False):
        """Moves the mouse to the middle of an element, as a person does; the page is scrolled to it."""
        middle = """(() => {
            const element = document.querySelector(%s);
            element.scrollIntoView({block: "center"});
            const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        })()"""
        x, y = self.evaluate(middle % json.dumps(selector))
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def named_events(self, *methods: str) -> list[dict[str, Any]]:
        """The parameters of the events of these kinds."""
        return [event["params"] for event in self.events if event["method"] in methods]

    def close(self):
        if hasattr(self, "_socket"):
            self._socket.close()
        self._process.kill()
        self._process.wait()

    def _address(self, profile: Path) -> str:
        """Of the first page's socket; the browser writes its port into a file."""
        file, deadline = profile / "DevToolsActivePort", time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"{BROWSER} ended with {self._process.returncode}"
            if file.is_file() and file.read_text().count("\n"):
                with urllib.request.urlopen(f"http://127.0.0.1:{file.read_text().split()[0]}/json/list") as answer:
                    pages = [page for page in json.load(answer) if page["type"] == "page"]
                if pages:
                    return pages[0]["webSocketDebuggerUrl"]
            time.sleep(0.05)
        raise TimeoutError(f"{BROWSER} opened no page in {_SECONDS} s")

    def wait_for(self, method: str):
        """Until an event of this kind has come."""
        while not self.named_events(method):
            self.events.append(json.loads(self._socket.recv()))
