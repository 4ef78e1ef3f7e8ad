"""One run at a time writes into a folder; two would mix their logs and remove each other's files."""

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from m2f.output.safe_text import terminal_text
from m2f.output.write_errors import naming

LOCK_FILE = ".m2f-lock"
_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_PLACE = 1 << 20  # of the byte that is locked where a lock keeps others from reading, as on Windows


class FolderBusyError(OSError):
    """Another run writes there."""


@contextmanager
def locked_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Keeps other runs out of a folder, which is made where it is not there, and removed if it stays empty.

    The system releases the lock when the process ends, however it ends. It holds for the processes of a machine, and
    on network file systems as far as they pass locks on, as NFS does; where locks are not to be had, there is none.

    Raises:
        FolderBusyError: another run writes there; the message has its process and machine.
        OSError: the folder cannot be made or written to.
    """
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    file = _take(folder)
    try:
        yield
    finally:
        # Removed while it is locked: who opened it before finds that it is no longer the folder's, and opens anew.
        with suppress(OSError):
            os.unlink(folder / LOCK_FILE)
        file.close()
        with suppress(OSError):  # a run that ended before it wrote anything leaves nothing; one that wrote, all
            for path in made:
                path.rmdir()


def files_in(folder: Path) -> list[str]:
    """The names of what is in a folder apart from its lock, sorted; none where there is no such folder."""
    return sorted(entry.name for entry in folder.iterdir() if entry.name != LOCK_FILE) if folder.exists() else []


def _take(folder: Path) -> IO[bytes]:
    path = folder / LOCK_FILE
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666), "r+b", 0)
        except FileNotFoundError:  # another run has just removed the folder, which was its own and empty
            continue
        try:
            _lock(file)
        except OSError as error:
            owner = _owner(file)
            file.close()
            if error.errno not in _BUSY:
                raise
            raise FolderBusyError(
                f"another run ({owner}) is writing to {folder}; wait for its end, or choose another folder"
            ) from error
        if _is_still_there(file, path):
            break
        file.close()
    owner = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
    try:
        with naming(path):
            file.truncate(0)
            file.write(owner.encode())
    except OSError:
        path.unlink()
        file.close()
        raise
    return file


def _lock(file: IO[bytes]):
    """Of this process alone: workers that it forks do not hold it, and so a killed run does not leave it to them."""
    try:
        import fcntl
    except ImportError:
        import msvcrt

        file.seek(_PLACE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        file.seek(0)
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise


def _owner(file: IO[bytes]) -> str:
    with suppress(OSError):
        text = file.read(200).decode("utf-8", "replace")
        return terminal_text(text) or "which has just begun"
    return "of which nothing is known"


def _is_still_there(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
