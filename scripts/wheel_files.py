"""Wheels written anew: with more files, for another platform, and with the same bytes each time."""

import base64
import hashlib
import io
import os
import re
import time
import zipfile
from pathlib import Path

# The oldest time that a zip file can hold, where SOURCE_DATE_EPOCH gives none.
_OLDEST = (1980, 1, 1, 0, 0, 0)


def write_wheel(pure: Path, folder: Path, added: dict[str, bytes], tag: str = "any") -> Path:
    """The wheel `pure` with the files of `added` (name -> content), for the platform `tag`, in `folder`."""
    with zipfile.ZipFile(pure) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")} | added
    information = next(name for name in files if name.endswith(".dist-info/WHEEL"))
    files[information] = _about(files[information].decode(), tag).encode()
    record = information.replace("/WHEEL", "/RECORD")
    del files[record]
    lines = [f"{name},sha256={_digest(files[name])},{len(files[name])}\n" for name in sorted(files)]
    files[record] = "".join([*lines, f"{record},,\n"]).encode()
    path = folder / pure.name.replace("-any.whl", f"-{tag}.whl")
    path.write_bytes(_zipped(files))
    return path


def _about(text: str, tag: str) -> str:
    """The file WHEEL: for one platform its content goes where platforms' files go."""
    text = re.sub(r"^Tag: .*$", f"Tag: py3-none-{tag}", text, flags=re.MULTILINE)
    purelib = "true" if tag == "any" else "false"
    return re.sub(r"^Root-Is-Purelib: .*$", f"Root-Is-Purelib: {purelib}", text, flags=re.MULTILINE)


def _digest(content: bytes) -> str:
    """As RECORD has it."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def _zipped(files: dict[str, bytes]) -> bytes:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = max(_OLDEST, time.gmtime(int(epoch))[:6]) if epoch else _OLDEST
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, moment)
            entry.create_system = 3  # Unix, on Windows too
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)
    return memory.getvalue()
