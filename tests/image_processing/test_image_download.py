"""Images at an address, from a server of this machine."""

import argparse
import socket
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from m2f.commands.predict import dry_run_lines
from m2f.image_processing.image_address import is_url, shown_url
from m2f.image_processing.image_download import download
from m2f.image_processing.image_loading import load_images
from m2f.inference.image_sources import find_images
from m2f.inference.prediction_folder import PredictionFolder
from m2f.inference.prediction_summary import write_summary

CONTENT = bytes(range(256)) * 9


@pytest.fixture
def server():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/slow"):
                return self.trickle()
            if (
                self.path == "/private.png" and self.headers["Authorization"] != "Basic YWxpY2U6czNjcmV0"
            ):  # alice:s3cret
                return self.send_error(401)
            if self.path.startswith("/to?"):
                self.send_response(302)
                self.send_header("Location", self.path[4:])
                return self.end_headers()
            self.send_response(200 if self.path in ("/x.png", "/private.png") else 404)
            self.end_headers()
            self.wfile.write(CONTENT)

        def trickle(self):
            """A byte now and then, of the body or of the head; until the other side or the test has enough."""
            if self.path == "/slow_body":
                self.send_response(200)
                self.end_headers()
            else:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
            try:
                while not enough.wait(0.02):
                    self.wfile.write(b"x")
            except OSError:
                pass

        def log_message(self, *_):
            pass

    enough = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    enough.set()
    server.shutdown()
    server.server_close()


def test_download(server):
    assert download(f"{server}/x.png") == CONTENT
    with pytest.raises(OSError, match="cannot download .*y.png: HTTP Error 404"):
        download(f"{server}/y.png")


def test_what_is_too_large_is_refused(server, monkeypatch):
    monkeypatch.setattr("m2f.image_processing.image_download._MOST_BYTES", len(CONTENT))
    assert len(download(f"{server}/x.png")) == len(CONTENT)
    monkeypatch.setattr("m2f.image_processing.image_download._MOST_BYTES", len(CONTENT) - 1)
    with pytest.raises(ValueError, match="x.png has more than 0 MiB; download it yourself"):
        download(f"{server}/x.png")


def test_addresses():
    assert is_url("HTTP://x.org/a.png") and is_url("https://x.org")
    assert not any(is_url(text) for text in ("x.png", "ftp://x.org/a.png", "http:/x", ""))


@pytest.mark.parametrize("path", ["slow_body", "slow_head", "to?/slow_body"])
def test_a_server_that_trickles_does_not_hold_anybody(server, path):
    start = time.monotonic()
    with pytest.raises(OSError, match=r"cannot download .*: it took more than 0.2 seconds; download it yourself"):
        download(f"{server}/{path}", seconds=0.2)
    assert time.monotonic() - start < 5


def test_a_server_that_accepts_and_is_silent():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(OSError, match="cannot download"):
            download(f"http://127.0.0.1:{silent.getsockname()[1]}/x.png", seconds=0.2)
        with pytest.raises(OSError, match="cannot download"):
            download(f"https://127.0.0.1:{silent.getsockname()[1]}/x.png", seconds=0.2)


def test_name_and_password_are_sent_and_not_shown(server):
    place = server.removeprefix("http://")
    assert download(f"http://alice:s3cret@{place}/private.png") == CONTENT
    with pytest.raises(OSError, match="401"):  # they stay with the first host's answer
        download(f"http://alice:s3cret@{place}/to?/private.png")


SECRETS = (
    "https://alice:s3cret@nowhere.invalid/a/x.png",
    "https://alice:s3cret@nowhere.invalid:port/x.png",
    "http://nowhere.invalid/x.png?token=s3cret&b=1",
    "http://alice:s3cret@nowhere.invalid?s3cret#s3cret",
    "http://alice:s3%63ret@[::1/x.png",
    "http://s3cret@nowhere.invalid:99999999/ x.png",
    "HTTP://a:s3cret@b:s3cret@nowhere.invalid\\x",
)


@pytest.mark.parametrize("url", SECRETS)
def test_secrets_are_not_in_messages(url, caplog):
    """ ".invalid" is a domain that no server has (RFC 2606)."""
    with pytest.raises((OSError, ValueError)) as error:
        download(url, seconds=2)
    with pytest.raises((OSError, ValueError)) as of_the_processor:
        load_images(url)
    with pytest.raises(ValueError) as refused:
        find_images([url], [])
    texts = ["".join(traceback.format_exception(raised.value)) for raised in (error, of_the_processor, refused)]
    assert not any("s3cret" in text or "s3%63ret" in text for text in [*texts, caplog.text]), texts


def test_what_is_shown_of_an_address():
    assert shown_url("https://u:p@x.org:80/a/b.png?t=1#f") == "https://***@x.org:80/a/b.png?***"
    assert shown_url("https://x.org/a@b.png") == "https://x.org/a@b.png"
    assert shown_url("http://x.org") == "http://x.org"


def test_secrets_are_in_no_file_of_a_prediction(tmp_path):
    """Failures are what names an address most."""
    sources = find_images([f"http://u:s3cret@nowhere.invalid/x.png?t={i}s3cret" for i in range(2)], [], True)
    folder = PredictionFolder(tmp_path, {})
    entries = folder.entries(sources)
    folder.begin(False)
    for entry in entries:
        with pytest.raises(OSError) as error:
            entry.source.read()
        folder.write_failure(entry, str(error.value))
        assert folder.record(entry)["error"] == str(error.value)
    summary = write_summary(folder, entries, {0: "a"}, [])
    assert len(summary.failed) == 2 and "s3cret" not in str(summary)
    lines = dry_run_lines(argparse.Namespace(overwrite=True, output=tmp_path), folder, entries)
    assert "***@nowhere.invalid/x.png?***" in lines[0] and "s3cret" not in str(lines)
    for file in tmp_path.rglob("*"):
        assert "s3cret" not in file.name and (file.is_dir() or b"s3cret" not in file.read_bytes())
