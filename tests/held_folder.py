"""Another process that writes into a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from m2f.output.folder_lock import locked_folder


@contextmanager
def held_folder(folder: Path) -> Iterator[int]:
    """Its number; it ends with the block. It is a copy of this process, as a new one takes seconds to import."""
    (ready, says), (wait, ends) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ends)
        try:
            with locked_folder(folder):
                os.write(says, b"x")
                os.read(wait, 1)
        finally:
            os._exit(0)
    os.close(wait)
    assert os.read(ready, 1) == b"x"
    try:
        yield child
    finally:
        os.close(ends)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(says)
