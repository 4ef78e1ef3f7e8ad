"""The values of options: from a yaml file, as every `--config` takes it, and from flags, a preset and defaults for a
training run; the first that names one decides. Keys of a file are the names of flags, with or without dashes."""

import dataclasses
import difflib
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from m2f.image_processing.flat_yaml import read_flat_yaml
from m2f.output.write_errors import naming
from m2f.training.class_weights import weight_entries
from m2f.training.training_options import PRECISION_OF_DTYPE, TrainingOptions
from m2f.training.training_presets import BACKBONE_RATES, START_FIELDS, training_preset

OPTION_FIELDS = {entry.name: entry for entry in dataclasses.fields(TrainingOptions)}
_TYPES = typing.get_type_hints(TrainingOptions)
PRECISION, _WHITE_LEVEL, _CLASS_WEIGHTS = "mixed_precision", "white_level", "class_weights"
# Names by which other commands call the same.
OTHER_NAMES = {"format": "data_format", "dtype": PRECISION, "out": "output", "report_to": "log_with"}
_COMMAND = "m2f train"


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Name -> value. A name is that of the flag with underscores: `batch_size`, `batch-size` and `--batch-size` are
    the same.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no mapping of options to values, names one twice, or is no yaml that `flat_yaml` takes.
    """
    values = read_flat_yaml(path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold lines of the form `option: value`, got {type(values).__name__}")
    named: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).removeprefix("--").replace("-", "_")
        if name in named:
            raise ValueError(f"{path} names the option {reprlib.repr(name)} twice")
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
    raise ValueError(
        f"{name} is {reprlib.repr(value)}; {'true or false' if kind is bool else kind.__name__} is needed"
    )


def nearest(name: str, known: Iterable[str], command: str) -> str:
    """What an unknown name of an option may have been meant to be."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else f"{command} --help lists all"


def resolve_options(flags: Mapping[str, Any], file: Mapping[str, Any] | None = None) -> TrainingOptions:
    """Options of a run: from flags, which win over a file, which wins over a preset, which wins over the defaults.

    A preset's backbone gives way to a `model` or `scratch` of the others, and its rates for the backbone to a
    `freeze_backbone`.

    Raises:
        ValueError: an unknown name or preset, a value of another type, or what `TrainingOptions` refuses.
    """
    given = {name: _converted(name, value) for name, value in {**(file or {}), **flags}.items()}
    preset = training_preset(given["preset"]) if given.get("preset") else {}
    if given.get("model") or given.get("scratch"):
        preset = {name: value for name, value in preset.items() if name not in START_FIELDS}
    if given.get("freeze_backbone"):
        preset = {name: value for name, value in preset.items() if name not in BACKBONE_RATES}
    return TrainingOptions(**{**preset, **given})


def read_options(path: str | Path) -> dict[str, Any]:
    """Name -> value of a run's options from a yaml file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no mapping of options to values; the nearest names are given for an unknown one.
    """
    values = {OTHER_NAMES.get(name, name): value for name, value in read_mapping(path).items()}
    try:
        return {name: _converted(name, value) for name, value in values.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_options(options: TrainingOptions, path: str | Path):
    """All options with their values, as `--config` takes them."""
    import yaml

    text = yaml.safe_dump(plain_values(options), sort_keys=False, allow_unicode=True)
    with naming(path):
        Path(path).write_text(text, encoding="utf-8")


def plain_values(options: TrainingOptions) -> dict[str, Any]:
    """Name -> value, in types that yaml and trackers take."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(options).items()}


def value_type(name: str) -> type:
    """Of a field of `TrainingOptions`: `str`, `int`, `float` or `bool`, of the entries where the field is a tuple."""
    annotation = _TYPES[name]
    if isinstance(annotation, types.UnionType):
        return next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    return typing.get_args(annotation)[0] if is_list(name) else annotation


def is_list(name: str) -> bool:
    """Whether a field of `TrainingOptions` is a tuple."""
    return typing.get_origin(_TYPES[name]) is tuple


def _converted(name: str, value: Any) -> Any:
    """The value in the field's type."""
    if name not in OPTION_FIELDS:
        raise ValueError(f"unknown option {reprlib.repr(name)}; {nearest(str(name), OPTION_FIELDS, _COMMAND)}")
    if value is None and type(None) in typing.get_args(_TYPES[name]):
        return None
    kind = value_type(name)
    if name == PRECISION:
        value = PRECISION_OF_DTYPE.get(value, value)
    if name == _WHITE_LEVEL and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # a number or a name
    if name == _CLASS_WEIGHTS:
        return weight_entries(value)
    if is_list(name):
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} is {reprlib.repr(value)}; a list is needed, such as [{kind(1)}, {kind(2)}]")
        return tuple(typed(name, kind, entry) for entry in value)
    return typed(name, kind, value)
