"""Whether a subcommand can write where it is told to, asked before it works for an hour. No subcommand itself."""

import os
from pathlib import Path


def check_folder(folder: Path):
    """Raise OSError where the folder can neither be written into nor made."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise NotADirectoryError(f"cannot write into {folder}: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write into {folder}: no permission for {there}")


def check_file(file: Path):
    """Raise OSError where the file cannot be written; its folder must be there."""
    if not file.parent.is_dir():
        raise FileNotFoundError(f"cannot write {file}: there is no folder {file.parent}")
    if file.is_dir():
        raise IsADirectoryError(f"cannot write {file}: it is a folder")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise PermissionError(f"cannot write {file}: no permission")
