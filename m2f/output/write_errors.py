"""Errors of writing: which file, and whether the disk is full."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
# Of libraries that keep only the words: safetensors.
_FULL_TEXT = re.compile(r"no space left on device|disk quota exceeded|\(os error (?:28|122)\)", re.IGNORECASE)


def is_full(error: BaseException | None) -> bool:
    """Whether a disk is full or a quota used up, of an error or of what led to it."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or _FULL_TEXT.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Within it the system's errors name the file: those of writing, as on a full disk, do not by themselves.

    Raises:
        OSError: of the same kind.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or os.fspath(path) in str(error):
            raise
        if error.errno is None:  # of Pillow, for one
            raise OSError(f"cannot write {os.fspath(path)}: {error}") from error
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
