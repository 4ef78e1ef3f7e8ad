"""Folders that are complete or not there: written under a temporary name, listed in a manifest, then renamed."""

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from m2f.output.write_errors import is_full, naming

MANIFEST = "manifest.json"
_NAME = "step-{:08d}"
_PATTERN = re.compile(r"step-(\d{8,})")
_UNFINISHED, _REMOVED = ".writing-", ".removed-"
_CHUNK = 2**22  # bytes read at a time for a hash


class CheckpointError(OSError):
    """A checkpoint that cannot be written or used; the message says which, why, and what is left."""


class CheckpointStore:
    """The checkpoints of a run, a folder each.

    Args:
        folder: where they lie.
        keep: the latest ones to keep; see `save` for one more.
        say: called with a line when a broken one is met.
        check: why one cannot be used, None if it can; by default `broken_because`.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        say: Callable[[str], None],
        check: Callable[[Path], str | None] | None = None,
    ):
        self.folder = Path(folder)
        self.keep = keep
        self.say = say
        self.check = check or broken_because

    def steps(self) -> dict[int, Path]:
        """Step -> folder of all checkpoints, whole or broken, the latest first."""
        if not self.folder.is_dir():
            return {}
        found = {int(match[1]): path for path in self.folder.iterdir() if (match := _PATTERN.fullmatch(path.name))}
        return dict(sorted(found.items(), reverse=True))

    def folder_of(self, step: int) -> Path:
        return self.folder / _NAME.format(step)

    def latest(self) -> Path | None:
        """The latest whole checkpoint; says which are broken and passed over."""
        for path in self.steps().values():
            reason = self.check(path)
            if reason is None:
                return path
            self.say(f"checkpoint {path} is broken and passed over: {reason}")
        return None

    def save(self, step: int, write: Callable[[Path], None], best_step: int | None = None) -> Path:
        """Adds a checkpoint, then removes those beyond `keep`, but never that of `best_step`; and those of later
        steps, which are broken, or of a future that the run has gone back from.

        Args:
            write: called with an empty folder to fill.

        Raises:
            CheckpointError: it cannot be written, because the disk is full for one; all earlier ones are as they were.
        """
        target = self.folder_of(step)
        try:
            self.clean()
            save_folder(target, write)
        except OSError as error:
            raise CheckpointError(self._failure(step, error)) from error
        self._remove_old(step, best_step)
        return target

    def clean(self):
        """Removes what an interrupted process left behind."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if path.name.startswith((_UNFINISHED, _REMOVED)):
                    _delete(path)

    def _remove_old(self, step: int, best_step: int | None):
        later = [other for other in self.steps() if other > step]
        for other in later:
            self.say(f"checkpoint {self.folder_of(other)} lies after the one just written and is removed")
        earlier = [other for other in self.steps() if other <= step][self.keep :]
        for other in (*later, *earlier):
            if other != best_step or other in later:
                _remove(self.folder_of(other))

    def _failure(self, step: int, error: OSError) -> str:
        free = shutil.disk_usage(self.folder.parent if not self.folder.exists() else self.folder).free
        left = next((path for path in self.steps().values() if self.check(path) is None), None)
        state = f"the last whole checkpoint is {left}" if left else "there is no earlier checkpoint"
        room = f" ({free / 2**30:.2f} GiB free)" if is_full(error) else ""
        remedy = "Make room (--keep 1 keeps fewer) and start" if is_full(error) else "When that is mended, start"
        return (
            f"the checkpoint of step {step} cannot be written to {self.folder}: {error}{room}; {state}. {remedy} "
            "again with the same command"
        )


def save_folder(target: Path, write: Callable[[Path], None]):
    """Fills a new folder and puts it at `target`, in place of what is there, with all of its data on the disk.

    Raises:
        OSError: it cannot be written; what is at `target` is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(_UNFINISHED + target.name)
    _delete(unfinished)
    unfinished.mkdir()
    try:
        write(unfinished)
        write_manifest(unfinished)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    if os.path.lexists(target):
        _remove(target)
    unfinished.rename(target)
    _sync(target.parent)


def broken_because(folder: Path, needed: Iterable[str] = ()) -> str | None:
    """Why a folder is not what `save_folder` wrote; None if it is. Never raises: what the system or json say of a
    folder that somebody changed has no end.

    Args:
        needed: names that it must have.
    """
    try:
        return _difference(folder, needed)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"it cannot be read ({one_line(error)})"
    except Exception as error:
        return f"{MANIFEST} cannot be read ({one_line(error)})"


def one_line(error: BaseException) -> str:
    """Of an error, for a message: its kind and the beginning of what it says."""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _difference(folder: Path, needed: Iterable[str]) -> str | None:
    _check_is_file(folder / MANIFEST)
    files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    if missing := [name for name in needed if name not in files]:
        return f"{MANIFEST} does not name {missing[0]}"
    if not files:
        return f"{MANIFEST} names no file"
    for name, entry in files.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return f"{MANIFEST} names a file elsewhere"
        _check_is_file(folder / name)
        size = (folder / name).stat().st_size
        if size != entry["size"]:
            return f"{name} has {size} bytes instead of {entry['size']}"
        if _sha256(folder / name) != entry["sha256"]:
            return f"{name} has changed since it was written"
    return None


def _check_is_file(path: Path):
    """Raise OSError; opening a pipe waits for a writer, and a device has no end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path.name} is no file")


def write_manifest(folder: Path):
    """Lists the files of a folder with their sizes and hashes, and puts all of it on the disk."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    files = {name: {"size": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in names}
    with naming(folder / MANIFEST):
        (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")
    for name in [*names, MANIFEST, "."]:
        _sync(folder / name)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path):
    """Onto the disk, so that a power cut cannot leave a complete name on incomplete data. Windows opens no folders,
    and wants files to be writable for it."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path):
    """Renamed first, because removing takes a while, and half of a checkpoint would look like a broken one."""
    removed = folder.with_name(_REMOVED + folder.name)
    _delete(removed)
    folder.rename(removed)
    _delete(removed)


def _delete(path: Path):
    """Whatever is there; of a link the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
