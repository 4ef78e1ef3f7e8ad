"""Images at an address, from a server of this machine."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from m2f.image_processing.image_download import download, is_url

CONTENT = bytes(range(256)) * 9


@pytest.fixture
def server():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/x.png" else 404)
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
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
