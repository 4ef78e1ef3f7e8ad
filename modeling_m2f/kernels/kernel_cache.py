"""A folder of compiled kernels that processes may share and race for, and that holds nothing but what it wrote.

A file's name ends in the SHA-256 of its content: a file that was changed, cut off or planted with another content is
not used. Files are written under a temporary name and renamed, so that a reader sees a whole file or none.
"""

import atexit
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path


def cached_file(name: str, suffix: str, make: Callable[[Path], None]) -> Path:
    """The file that `make` writes, from the cache where it is there.

    Args:
        name: identifies the content: a hash of everything that it depends on.
        suffix: of the file, such as ".so".
        make: writes the file to the path that it is given.
    """
    folder = cache_folder()
    for path in sorted(folder.glob(f"{name}-*{suffix}")):
        if path.name == _name_of(name, suffix, path.read_bytes()):
            return path
    with tempfile.TemporaryDirectory(dir=folder) as workplace:
        made = Path(workplace) / f"made{suffix}"
        make(made)
        path = folder / _name_of(name, suffix, made.read_bytes())
        os.replace(made, path)
    return path


def cache_folder() -> Path:
    """$M2F_CACHE, or m2f in the user's cache folder (XDG rules); a private temporary folder, removed at exit, where
    that cannot be written or others may write to it."""
    wanted = os.environ.get("M2F_CACHE")
    folder = Path(wanted) if wanted else _user_cache() / "m2f"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_private(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    except OSError:
        pass  # a read-only home, or a file in the folder's place; the temporary folder serves
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
