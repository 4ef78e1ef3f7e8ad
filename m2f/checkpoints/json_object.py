"""Json files of a checkpoint, which anybody may have written."""

import json
import os
from pathlib import Path
from typing import Any

_MOST_BYTES = 256 * 2**20  # an index of a million weights has 100 MiB


def read_json_object(path: str | os.PathLike) -> dict[str, Any]:
    """The content of a json file that holds an object.

    Raises:
        OSError: it cannot be read, or is no file.
        ValueError: it is no json, is too large or too deep to be read, or holds something else.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # reading a device or a pipe may never end
        raise OSError(f"{path} is no file")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} has more than {_MOST_BYTES >> 20} MiB, which no file of a checkpoint has")
    try:
        content = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError(f"{path} is no json file of a checkpoint: too many brackets in each other") from error
    except ValueError as error:
        raise ValueError(f"{path} is no json file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no fields, but a {type(content).__name__}")
    return content
