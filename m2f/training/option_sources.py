"""Where the options of a run come from: flags, a yaml file, a preset, defaults; the first that names one decides."""

import argparse
import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m2f.training.class_weights import weight_entries
from m2f.training.option_file import nearest, read_mapping, typed
from m2f.training.training_options import PRECISION_OF_DTYPE, TrainingOptions
from m2f.training.training_presets import START_FIELDS, training_preset

_FIELDS = {entry.name: entry for entry in dataclasses.fields(TrainingOptions)}
_TYPES = typing.get_type_hints(TrainingOptions)
_METAVARS = {str: "TEXT", int: "N", float: "X"}
_WHITE_LEVEL = "white_level"
_METAVARS_OF = {
    "preset": "NAME",
    "data": "DATA",
    "data_format": "NAME",
    "data_options": "NAME=VALUE",
    "image_folder": "FOLDER",
    "train_split": "NAME",
    "validation_data": "DATA",
    "validation_image_folder": "FOLDER",
    "validation_split": "NAME",
    _WHITE_LEVEL: "VALUE",
    "model": "CHECKPOINT",
    "backbone": "NAME",
    "scratch": "FILE",
    "device": "NAME",
    "output": "FOLDER",
    "log_with": "NAME",
    "license": "ID",
    "dataset": "NAME",
    "class_weights": "X|NAME=X|FILE",
}
_PRECISION, _CLASS_WEIGHTS = "mixed_precision", "class_weights"
# Names by which other commands call the same.
_OTHER_NAMES = {"format": "data_format", "dtype": _PRECISION, "out": "output"}
_COMMAND = "m2f train"
# argparse would list all flags.
_USAGE = "%(prog)s --data DATA (--model | --backbone | --scratch) NAME [--config FILE.yaml] [option ...]"


def add_option_arguments(parser: argparse.ArgumentParser, last: Sequence[str] = ()):
    """A flag for each field, and `--config`. A flag that is not given leaves no attribute.

    Args:
        last: flags that the help ends with, in this order.
    """
    at_end = [name for name in (_OTHER_NAMES.get(name, name) for name in last) if name in _FIELDS]
    for name in [name for name in _FIELDS if name not in at_end]:
        _add_flag(parser, name)
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="options of this file; flags win over it")
    for name in at_end:
        _add_flag(parser, name)
    parser.usage = _USAGE


def _add_flag(parser: argparse.ArgumentParser, name: str):
    entry, kind = _FIELDS[name], _value_type(name)
    help = entry.metadata["help"].replace("%", "%%") + ("" if name == _PRECISION else _default_text(entry.default))
    settings: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": help}
    names = [name, *(other for other, field in _OTHER_NAMES.items() if field == name)]
    flags = ["--" + spelling.replace("_", "-") for spelling in names]
    if kind is bool:
        parser.add_argument(*flags, action=argparse.BooleanOptionalAction, **settings)
        return
    if _is_list(name):
        settings["nargs"] = "*"
    choices = PRECISION_OF_DTYPE if name == _PRECISION else entry.metadata["choices"]
    metavar = f"{{{','.join(choices)}}}" if choices else _METAVARS_OF.get(name, _METAVARS[kind])
    parser.add_argument(*flags, type=kind, metavar=metavar, **settings)


def options_from_arguments(args: argparse.Namespace) -> TrainingOptions:
    """The options that the parsed arguments of `add_option_arguments` ask for.

    Raises:
        ValueError, OSError: see `resolve_options` and `read_options`.
    """
    flags = {name: value for name, value in vars(args).items() if name in _FIELDS}
    return resolve_options(flags, read_options(args.config) if args.config else {})


def resolve_options(flags: Mapping[str, Any], file: Mapping[str, Any] | None = None) -> TrainingOptions:
    """Options from flags, which win over those of a file, which win over a preset, which wins over the defaults.

    A preset's backbone gives way to a `model` or `scratch` of the others.

    Raises:
        ValueError: an unknown name or preset, a value of another type, or what `TrainingOptions` refuses.
    """
    given = {name: _converted(name, value) for name, value in {**(file or {}), **flags}.items()}
    preset = training_preset(given["preset"]) if given.get("preset") else {}
    if given.get("model") or given.get("scratch"):
        preset = {name: value for name, value in preset.items() if name not in START_FIELDS}
    return TrainingOptions(**{**preset, **given})


def read_options(path: str | Path) -> dict[str, Any]:
    """Name -> value from a yaml file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no mapping of options to values; the nearest names are given for an unknown one.
    """
    values = {_OTHER_NAMES.get(name, name): value for name, value in read_mapping(path).items()}
    try:
        return {name: _converted(name, value) for name, value in values.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_options(options: TrainingOptions, path: str | Path):
    """All options with their values, as `--config` takes them."""
    import yaml

    Path(path).write_text(yaml.safe_dump(plain_values(options), sort_keys=False, allow_unicode=True), encoding="utf-8")


def plain_values(options: TrainingOptions) -> dict[str, Any]:
    """Name -> value, in types that yaml and trackers take."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(options).items()}


def _converted(name: str, value: Any) -> Any:
    """The value in the field's type."""
    if name not in _FIELDS:
        raise ValueError(f"unknown option {name!r}; {nearest(str(name), _FIELDS, _COMMAND)}")
    if value is None and type(None) in typing.get_args(_TYPES[name]):
        return None
    kind = _value_type(name)
    if name == _PRECISION:
        value = PRECISION_OF_DTYPE.get(value, value)
    if name == _WHITE_LEVEL and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # a number or a name
    if name == _CLASS_WEIGHTS:
        return weight_entries(value)
    if _is_list(name):
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} is {value!r}; a list is needed, such as [{kind(1)}, {kind(2)}]")
        return tuple(typed(name, kind, entry) for entry in value)
    return typed(name, kind, value)


def _value_type(name: str) -> type:
    """`str`, `int`, `float` or `bool`, of the entries where the field is a tuple."""
    annotation = _TYPES[name]
    if isinstance(annotation, types.UnionType):
        return next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    return typing.get_args(annotation)[0] if _is_list(name) else annotation


def _is_list(name: str) -> bool:
    return typing.get_origin(_TYPES[name]) is tuple


def _default_text(default: Any) -> str:
    if default is None or default == "" or default == () or isinstance(default, bool):
        return ""
    return f" ({default})"
