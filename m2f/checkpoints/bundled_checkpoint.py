"""The names of the checkpoints that come with m2f."""

import os
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
_CONFIG = "config.json"
# What is used where no checkpoint is named.
DEFAULT_CHECKPOINT = "nuclei"


def bundled_names() -> list[str]:
    """The checkpoints in this folder."""
    return sorted(path.parent.name for path in _FOLDER.glob(f"*/{_CONFIG}"))


def checkpoint_location(name: str | os.PathLike | None) -> str:
    """Folder or Hub id of a checkpoint that a user names.

    A bundled checkpoint's name is its folder in the package. As for Hub ids, a folder of that name where the user is
    comes first, if it is a checkpoint (has a config.json); a folder of images with that name is none. All else stays
    as it is. None is `DEFAULT_CHECKPOINT`, whatever folders there are.

    Raises:
        FileNotFoundError: m2f was installed without its data.
    """
    if name is None:
        return _bundled(DEFAULT_CHECKPOINT)
    name = os.fspath(name)
    is_local = os.path.isfile(os.path.join(name, _CONFIG))
    return _bundled(name) if name in (DEFAULT_CHECKPOINT, *bundled_names()) and not is_local else name


def _bundled(name: str) -> str:
    folder = _FOLDER / name
    if not (folder / _CONFIG).is_file():
        raise FileNotFoundError(
            f"the bundled checkpoint {name} is not in {_FOLDER}: m2f was installed without its data; install it again"
        )
    return str(folder)
