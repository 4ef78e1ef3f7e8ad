"""An image at an address."""

import http.client
import socket
import threading
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.error import URLError

from m2f.image_processing.image_address import shown_url, split_credentials, without_secrets

LONGEST_SECONDS = 600  # for all of an image; 512 MiB take that long at 7 megabits a second
_SILENT_SECONDS = 60
_MOST_BYTES = 512 * 2**20


def download(url: str, seconds: float = LONGEST_SECONDS) -> bytes:
    """What is at an http or https address. Name and password in it are sent to its host, and to no other to which that
    sends on.

    Args:
        url: the address. In messages it is as `shown_url` has it.
        seconds: for all of it, so that a server which sends a byte now and then does not hold a run.

    Raises:
        OSError: it cannot be had, or not in that time.
        ValueError: it is larger than 512 MiB.
    """
    shown, deadline = shown_url(url), _Deadline(seconds)
    try:
        with deadline, deadline.open(url) as answer:
            content = answer.read(_MOST_BYTES + 1)
    # HTTPException (of a broken answer) is no OSError. Some name parts of the address.
    except (OSError, http.client.HTTPException, ValueError) as error:
        if not deadline.is_over:
            reason = " ".join(without_secrets(str(error), url).split())[:300]
            raise OSError(f"cannot download {shown}: {reason or type(error).__name__}") from None
    if deadline.is_over:
        raise OSError(f"cannot download {shown}: it took more than {seconds:g} seconds; download it yourself")
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{shown} has more than {_MOST_BYTES >> 20} MiB; download it yourself")
    return content


class _Deadline:
    """Ends all connections that were opened in it when the time is over, which wakes whoever waits for their bytes. A
    socket's own timeout begins anew with every byte."""

    def __init__(self, seconds: float):
        self.is_over = False
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._silent = min(seconds, _SILENT_SECONDS)
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()

    def __enter__(self):
        self._timer.start()

    def __exit__(self, *_):
        self._timer.cancel()
        with self._lock:
            for connection in self._sockets:
                connection.close()
            self._sockets.clear()

    def open(self, url: str) -> Any:
        address, credentials = split_credentials(url)
        request = urllib.request.Request(address)
        if credentials is not None:
            request.add_unredirected_header("Authorization", credentials)
        opener = urllib.request.build_opener(_Http(self.connect), _Https(self.connect), _NoFtp())
        return opener.open(request, timeout=self._silent)

    def connect(self, *args, **kwargs) -> socket.socket:
        """As `socket.create_connection`. What is kept is a second handle, as TLS takes the first one away."""
        made = socket.create_connection(*args, **kwargs)
        with self._lock:
            self._sockets.append(made.dup())
        if self.is_over:
            self._end()
        return made

    def _end(self):
        self.is_over = True
        with self._lock:
            for connection in self._sockets:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # the other side has ended it


class _Http(urllib.request.HTTPHandler):
    def __init__(self, connect: Callable[..., socket.socket]):
        super().__init__()
        self._connect = connect

    def http_open(self, request):
        return self.do_open(_made_by(http.client.HTTPConnection, self._connect), request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, connect: Callable[..., socket.socket]):
        super().__init__()
        self._connect = connect

    def https_open(self, request):
        return self.do_open(_made_by(http.client.HTTPSConnection, self._connect), request)


class _NoFtp(urllib.request.FTPHandler):
    def ftp_open(self, request):
        raise URLError("the server sends on to ftp")


def _made_by(kind: type, connect: Callable[..., socket.socket]) -> Any:
    """The class of a connection that is opened by `connect`, for which http.client has this attribute."""

    def make(*args, **kwargs):
        connection = kind(*args, **kwargs)
        connection._create_connection = connect
        return connection

    return make
