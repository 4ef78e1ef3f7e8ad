"""The folder of a format in that of a prediction: it is written as a whole, and never over what somebody corrected."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from m2f.output.write_errors import naming

RECORD = ".m2f-saved.json"
_PROGRAM = "m2f predict --save"


def check_replaceable(folder: Path):
    """Whether a folder may be written, and written anew.

    Raises:
        ValueError: it has other files than those that were written there, or one of these was changed since.
    """
    if not os.path.lexists(folder):
        return
    record = _read_record(folder)
    if record is None:
        raise ValueError(f"{folder} was not written by {_PROGRAM}; move it away, or choose another --output")
    changed = [name for name, digest in record["files"].items() if _digest(folder / name) != digest]
    more = sorted(_names(folder) - {*record["files"], *record["images"]})
    if changed or more:
        name = (changed or more)[0]
        raise ValueError(
            f"{folder} was changed since it was written ({name}); move it away to keep what was corrected, or "
            "--overwrite removes it"
        )


def remove_written(folder: Path):
    """Remove a folder that was written as a format's, whatever was changed in it; leaves others."""
    if _read_record(folder) is not None:
        shutil.rmtree(folder)


def write_folder(folder: Path, unfinished_prefix: str, write: Callable[[Path], set[str]]):
    """Write a folder under another name and rename it, in place of one that was written before.

    Args:
        unfinished_prefix: of the other name.
        write: writes into an empty folder, and gives the names of the images in it.

    Raises:
        ValueError: see `check_replaceable`.
        OSError: it cannot be written.
    """
    check_replaceable(folder)
    place = folder.parent / f"{unfinished_prefix}{uuid4().hex}"
    place.mkdir(parents=True)
    try:
        images = write(place)
        files = {name: _digest(place / name) for name in sorted(_names(place) - images)}
        record = {"program": _PROGRAM, "files": files, "images": sorted(images)}
        with naming(place / RECORD):
            (place / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(place, folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)  # after an error


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and record.get("program") == _PROGRAM
    return record if is_record and isinstance(record.get("files"), dict) and "images" in record else None


def _names(folder: Path) -> set[str]:
    """All files in a folder and its folders, relative to it, but for the record."""
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in files} - {RECORD}


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
