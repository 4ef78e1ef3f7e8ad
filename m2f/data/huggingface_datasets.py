"""Where rows come from: memory, parquet files, folders of `save_to_disk`, and the Hub."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m2f.data.coco_json import read_json
from m2f.data.dataset_paths import inside, split_of_name

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_DICT_FILE, _STATE_FILE = "dataset_dict.json", "state.json"


def is_rows(source: Any) -> bool:
    """Whether this is a dataset of `datasets`, or several by their splits."""
    if isinstance(source, str | os.PathLike):
        return False  # without importing `datasets`, which takes a second
    from datasets import Dataset, DatasetDict

    return isinstance(source, Dataset | DatasetDict)


def is_hub_name(text: str) -> bool:
    """Whether a text can only be a dataset of the Hub, "owner/name"; a path into an existing folder is a path."""
    return bool(_HUB_NAME.fullmatch(text)) and not Path(text).exists() and not Path(text).parent.exists()


def parquet_files(path: Path) -> dict[str, list[Path]]:
    """Split -> parquet files of a folder or its "data", by the files' names as the Hub has them
    (train-00000-of-00002.parquet); all others are "train"."""
    found: dict[str, list[Path]] = {}
    for file in [path] if path.is_file() else sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")]):
        (word,) = re.findall(r"^[A-Za-z]*", file.stem)
        found.setdefault(word if split_of_name(word) else "train", []).append(file)
    return found


def row_splits(source: Any) -> list[str]:
    """The splits of rows: of a `datasets.Dataset` or `DatasetDict`, of the path of a parquet file or a folder, or of a
    name on the Hub. Empty for a folder without rows."""
    if is_rows(source):
        # Only a DatasetDict is a mapping.
        return list(source) if isinstance(source, Mapping) else [str(source.split or "train")]
    if is_hub_name(str(source)):
        from datasets import get_dataset_split_names

        try:
            return get_dataset_split_names(str(source))
        except OSError as error:  # among them that there is no network, and that there is no such dataset
            raise FileNotFoundError(f"no such folder: {source}; nor can it be had from the Hub: {error}") from error
    path = Path(source)
    if (path / _DICT_FILE).is_file():
        return _saved_splits(path)
    return ["train"] if (path / _STATE_FILE).is_file() else list(parquet_files(path))


def rows_folder(path: Path) -> Path | None:
    """The folder that parquet files may name images in; None for a folder of `save_to_disk`, which keeps the paths of
    the program that wrote it."""
    is_saved = (path / _DICT_FILE).is_file() or (path / _STATE_FILE).is_file()
    return None if is_saved else path.parent if path.is_file() else path


def load_rows(source: Any, split: str) -> Any:
    """The `datasets.Dataset` of a split.

    Raises:
        FileNotFoundError: the Hub has no such dataset.
        ValueError: a file that cannot be read as what its name says.
    """
    if is_rows(source):
        return source[split] if isinstance(source, Mapping) else source
    if is_hub_name(str(source)):
        from datasets import load_dataset

        return load_dataset(str(source), split=split)
    path = Path(source)
    if (path / _DICT_FILE).is_file():
        path = path / split
    return _from_disk(path) if (path / _STATE_FILE).is_file() else _from_parquet(parquet_files(path)[split])


def _saved_splits(path: Path) -> list[str]:
    content = read_json(path / _DICT_FILE)
    splits = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(splits, list) or not all(isinstance(split, str) for split in splits):
        raise ValueError(f"{path / _DICT_FILE} has no list 'splits' of names")
    for split in splits:
        inside(path, split, str(path / _DICT_FILE))
    return splits


def _from_parquet(files: Sequence[Path]) -> Any:
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError
    from pyarrow import ArrowException

    try:
        return Dataset.from_parquet([str(file) for file in files])
    except (ArrowException, DatasetGenerationError, OSError, ValueError) as error:
        reason = error.__cause__ or error
        raise ValueError(f"cannot read {', '.join(map(str, files))} as parquet: {reason}") from error


def _from_disk(path: Path) -> Any:
    from datasets import load_from_disk
    from pyarrow import ArrowException

    try:
        return load_from_disk(str(path))
    except (ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"cannot read {path} as a folder of save_to_disk: {error}") from error
