"""Standard output and errors that no control character passes, whoever prints: the program, a library, a warning."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from m2f.output.safe_text import terminal_text

# What tqdm writes apart from its text: back to the beginning of the line, and up or down to another bar.
_BAR_MOVES = re.compile(r"(\r?)([^\r\n]*)|(?:\n|\x1b\[A)+")


class SafeStream:
    """A text stream; what is written to it goes through `terminal_text`, and what its encoding lacks is escaped.

    Bars of progress move as they do: a text of one line may begin with a carriage return, and one of nothing else
    may go up lines.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(self._safe(text))
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _safe(self, text: str) -> str:
        move = _BAR_MOVES.fullmatch(text)
        if move is not None and move[2] is None:
            return text
        start, rest = move.groups() if move else ("", text)
        safe = start + terminal_text(rest, lines=True)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return safe.encode(encoding, "backslashreplace").decode(encoding)


@contextmanager
def safe_streams() -> Iterator[None]:
    """Within it `sys.stdout`, `sys.stderr` and the handlers of `logging` that write to streams are safe.

    They stay so after an error: whoever prints it prints what a file says.
    """
    streams, handlers = (sys.stdout, sys.stderr), list(_stream_handlers())
    sys.stdout, sys.stderr = map(_safe, streams)
    for handler in handlers:
        handler.stream = _safe(handler.stream)
    try:
        yield
    except Exception:
        raise
    except BaseException:  # of --help, for one
        _restore(streams)
        raise
    else:
        _restore(streams)


def _restore(streams: tuple[TextIO, TextIO]):
    sys.stdout, sys.stderr = streams
    for handler in _stream_handlers():
        if isinstance(handler.stream, SafeStream):
            handler.stream = handler.stream._stream


def _safe(stream: Any) -> Any:
    return stream if stream is None or isinstance(stream, SafeStream) else SafeStream(stream)


def _stream_handlers() -> Iterator[logging.StreamHandler]:
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        for handler in getattr(logger, "handlers", ()):  # a placeholder has none
            # One that asks for sys.stderr each time has no stream of its own.
            if "stream" in vars(handler) and not isinstance(handler, logging.FileHandler):
                yield handler
