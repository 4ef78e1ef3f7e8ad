"""A folder of compiled kernels that processes may share and race for, and that holds nothing but what it wrote.

A file's name ends in the SHA-256 of its content: a file that was changed, cut off or planted with another content is
not used. Files are written under a temporary name and renamed, so that a reader sees a whole file or none.
"""

import atexit
import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_WORKPLACE = "making-"
_LEFT_SECONDS = 3600  # a compilation is stopped after minutes


def cached_file(name: str, suffix: str, make: Callable[[Path], None]) -> Path:
    """The file that `make` writes, from the cache where it is there; in a private temporary folder where something
    else is in its place in the cache.

    Args:
        name: identifies the content: a hash of everything that it depends on.
        suffix: of the file, such as ".so".
        make: writes the file to the path that it is given.
    """
    folder = cache_folder()
    for path in sorted(folder.glob(f"{name}-*{suffix}")):
        if path.name == _name_of(name, suffix, _content(path)):
            return path
    _remove_leftovers(folder)
    with tempfile.TemporaryDirectory(prefix=_WORKPLACE, dir=folder) as workplace:
        made = Path(workplace) / f"made{suffix}"
        try:
            make(made)
        except OSError as error:
            if error.filename is not None or error.errno is None:
                raise
            raise OSError(error.errno, error.strerror, str(made)) from error  # of a full disk, which names no file
        file = _name_of(name, suffix, made.read_bytes())
        try:
            os.replace(made, folder / file)
        except OSError:  # a folder has the name
            folder = _temporary_folder()
            shutil.copyfile(made, folder / file)
    return folder / file


def _content(path: Path) -> bytes:
    """Nothing of what is no file, such as a folder or a link to nowhere, or cannot be read."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""


def _remove_leftovers(folder: Path):
    """Of compilations that were killed: their folders, once no compilation can still be at work in them."""
    for path in folder.glob(f"{_WORKPLACE}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(path)


def cache_folder() -> Path:
    """$M2F_CACHE, or m2f in the user's cache folder (XDG rules); a private temporary folder, removed at exit, where
    that cannot be written or others may write to it."""
    wanted = os.environ.get("M2F_CACHE")
    try:
        folder = Path(wanted) if wanted else _user_cache() / "m2f"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_private(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    except (OSError, RuntimeError):
        pass  # a read-only home, a file in the folder's place, or no home at all; the temporary folder serves
    return _temporary_folder()


def _user_cache() -> Path:
    configured = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is invalid and ignored.
    return Path(configured) if os.path.isabs(configured) else Path.home() / ".cache"


def _is_private(folder: Path) -> bool:
    status = folder.stat()
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


_temporary: list[tuple[int, Path]] = []


def _temporary_folder() -> Path:
    """One a process; not shared with forked children, which would remove it at their exit."""
    pid = os.getpid()
    for owner, folder in _temporary:
        if owner == pid:
            return folder
    folder = Path(tempfile.mkdtemp(prefix="m2f-"))
    _temporary.append((pid, folder))
    atexit.register(_remove_at_exit, pid, folder)
    return folder


def _remove_at_exit(pid: int, folder: Path):
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


def _name_of(name: str, suffix: str, content: bytes) -> str:
    return f"{name}-{hashlib.sha256(content).hexdigest()}{suffix}"
