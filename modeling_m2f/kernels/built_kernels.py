"""Libraries that wheels bring, built ahead by scripts/build_wheels.py: found by their source's text, definitions and
the processor's level, and checked before they are used.

built/manifest.json lists them, one `Built` each. A checkout and the pure wheel have none.
"""

import ctypes
import functools
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from m2f.modeling_m2f.kernels.processor_level import machine_target, processor_levels

BUILT = Path(__file__).parent / "built"
MANIFEST = "manifest.json"
Definitions = dict[str, str | int]


class Built(NamedTuple):
    """One library.

    Args:
        file: its name in the folder.
        source: its name in csrc, for readers.
        source_sha256: of the source's text, headers in it.
        definitions: of macros.
        target, level: as `machine_target` and `processor_levels` name them.
        sha256: of the file.
        exports: its functions.
    """

    file: str
    source: str
    source_sha256: str
    definitions: Definitions
    target: str
    level: str
    sha256: str
    exports: list[str]


class BuiltSearch(NamedTuple):
    """A library and its level, or neither; and why better ones were passed over."""

    library: ctypes.CDLL | None
    level: str
    reasons: list[str]


def find_built(source: str, definitions: Definitions) -> BuiltSearch:
    """The best library for this machine that was built ahead from the text `source`."""
    listed, reason = _listed(BUILT)
    reasons = [reason] if reason else []
    digest = hashlib.sha256(source.encode()).hexdigest()
    usable = [
        built
        for built in listed
        if built.source_sha256 == digest and built.definitions == definitions and built.target == machine_target()
    ]
    for level in processor_levels() if usable else ():
        for built in usable:
            if built.level == level:
                library = _load(built)
                if isinstance(library, ctypes.CDLL):
                    return BuiltSearch(library, level, reasons)
                reasons.append(f"{built.file} ({level}), built ahead, is passed over: {library}")
    return BuiltSearch(None, "", reasons)


@functools.cache
def _listed(folder: Path) -> tuple[list[Built], str | None]:
    """The manifest, and why it cannot be read."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        return [], None
    except OSError as error:
        return [], f"the list of kernels built ahead cannot be read: {error}"
    try:
        return [Built(**entry) for entry in json.loads(text)["libraries"]], None
    except (ValueError, KeyError, TypeError) as error:
        return [], f"the list of kernels built ahead ({folder / MANIFEST}) is damaged: {error!r}"


def _load(built: Built) -> ctypes.CDLL | str:
    """The library, or what is wrong with it."""
    path = BUILT / built.file
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != built.sha256:
            return "its SHA-256 is not that of the list"
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return f"it cannot be loaded: {error}"
    missing = [name for name in built.exports if not hasattr(library, name)]
    return f"it lacks {', '.join(missing)}" if missing else library
