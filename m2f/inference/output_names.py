"""Names of the files that are written for an image, and writing them so that a killed process leaves none by half."""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from m2f.inference.image_sources import ImageSource
from m2f.output.write_errors import naming

UNFINISHED = ".m2f-unfinished-"  # what the name of a file or folder begins with until it is whole
# File systems take 255 bytes a name, of which endings and the mark of an unfinished file need some.
_MAX_NAME_BYTES = 150
_HASH_DIGITS = 10


def output_names(sources: Sequence[ImageSource]) -> list[str]:
    """A name for each image's files, without ending, relative to a folder that it never leaves: the image's own.
    Where two images would get one name, as a.jpg and a.png or equal names in two folders, each gets a hash of its
    location too, so that a name does not depend on the order."""
    plain = [_safe_name(source.name) for source in sources]
    # Some file systems do not tell upper from lower case.
    count = Counter(name.casefold() for name in plain)
    return [
        name if count[name.casefold()] == 1 else f"{name}-{_hash(source.location)}"
        for name, source in zip(plain, sources, strict=True)
    ]


def write_whole(path: Path, write: Callable[[Path], Any]):
    """Write a file under another name and rename it, so that it is there whole or not at all.

    Args:
        write: writes to the path that it is given, which has the same ending.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f"{UNFINISHED}{uuid4().hex}{path.suffix}"
    try:
        with naming(path):
            write(unfinished)
            os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)  # after an error


def remove_unfinished(folder: Path):
    """Remove what a killed process left in a folder and its folders."""
    for path in list(folder.rglob(f"{UNFINISHED}*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _safe_name(name: str) -> str:
    parts = [part for part in PurePosixPath(name.replace("\0", "")).parts if part not in ("/", "..")] or ["image"]
    parts[-1] = PurePosixPath(parts[-1]).stem
    return str(PurePosixPath(*map(_short, parts)))


def _short(part: str) -> str:
    encoded = os.fsencode(part)
    if len(encoded) <= _MAX_NAME_BYTES:
        return part
    return f"{encoded[:_MAX_NAME_BYTES].decode('utf-8', 'ignore')}-{_hash(part)}"


def _hash(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:_HASH_DIGITS]
