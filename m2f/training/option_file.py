"""A yaml file with options, as every `--config` takes it: keys are the names of flags, with or without dashes."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Name -> value. A name is that of the flag with underscores: `batch_size`, `batch-size` and `--batch-size` are
    the same.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no mapping of options to values, or names one twice.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no yaml file: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold lines of the form `option: value`, got {type(values).__name__}")
    named: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).removeprefix("--").replace("-", "_")
        if name in named:
            raise ValueError(f"{path} names the option {name} twice")
        named[name] = value
    return named


def typed(name: str, kind: type, value: Any) -> Any:
    """The value of an option as `str`, `int`, `float` or `bool`.

    Raises:
        ValueError: it is of another type.
    """
    if type(value) is kind:
        return value
    # yaml 1.1 takes 1e-4 (without a dot) for text, and 1 for an int where a float is meant.
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    raise ValueError(f"{name} is {value!r}; {'true or false' if kind is bool else kind.__name__} is needed")


def nearest(name: str, known: Iterable[str], command: str) -> str:
    """What an unknown name of an option may have been meant to be."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else f"{command} --help lists all"
