"""Images of a dataset put beside labels that are written elsewhere, without taking space."""

import os
import shutil
from pathlib import Path

from m2f.output.write_errors import naming


def link_image(source: str | os.PathLike, target: Path, copy: bool = False):
    """A hard link to an image file, or a copy where there can be no link.

    Args:
        copy: no link.

    Raises:
        OSError: the image cannot be read, or the target not be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    source = os.path.realpath(source)  # a hard link to a symbolic one would be a symbolic one
    if not copy:
        try:
            os.link(source, target)
            return
        except OSError:  # another file system, or one without links
            pass
    with naming(target):
        shutil.copyfile(source, target)
