"""Who may read a file that is written."""

import os
import stat
from pathlib import Path
from uuid import uuid4


def give_usual_mode(file: Path):
    """Gives a file the mode of those that `open` makes in its folder, after the umask.

    safetensors writes files that nobody but their owner may read, whatever the umask says.

    Raises:
        OSError: the folder cannot be written to.
    """
    probe = file.with_name(f".mode-{uuid4().hex}")
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        probe.unlink()
    if stat.S_IMODE(file.stat().st_mode) != mode:
        file.chmod(mode)
