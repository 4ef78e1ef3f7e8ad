"""Where the options of a run come from: flags, a yaml file, a preset, defaults; the first that names one decides."""

import argparse
import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from m2f.training.training_options import TrainingOptions
from m2f.training.training_presets import START_FIELDS, training_preset

_FIELDS = {entry.name: entry for entry in dataclasses.fields(TrainingOptions)}
_TYPES = typing.get_type_hints(TrainingOptions)
_METAVARS = {str: "TEXT", int: "N", float: "X"}
# argparse would list all flags.
_USAGE = "%(prog)s --data DATA (--model | --backbone | --scratch) NAME [--config FILE.yaml] [option ...]"


def add_option_arguments(parser: argparse.ArgumentParser):
    """A flag for each field, and `--config`. A flag that is not given leaves no attribute."""
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="options of this file; flags win over it")
    for name, entry in _FIELDS.items():
        flag, kind = "--" + name.replace("_", "-"), _value_type(name)
        help = entry.metadata["help"].replace("%", "%%") + _default_text(entry.default)
        settings: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": help}
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **settings)
            continue
        if _is_list(name):
            settings["nargs"] = "*"
        metavar = "|".join(entry.metadata["choices"] or (_METAVARS[kind],))
        parser.add_argument(flag, type=kind, metavar=metavar, **settings)
    parser.usage = _USAGE
    parser.error = functools.partial(_error_with_nearest_flags, parser.error)


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
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no yaml file: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold lines of the form `option: value`, got {type(values).__name__}")
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
        raise ValueError(f"unknown option {name!r}; {_nearest(str(name), _FIELDS)}")
    if value is None and type(None) in typing.get_args(_TYPES[name]):
        return None
    kind = _value_type(name)
    if _is_list(name):
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} is {value!r}; a list is needed, such as [{kind(1)}, {kind(2)}]")
        return tuple(_scalar(name, kind, entry) for entry in value)
    return _scalar(name, kind, value)


def _scalar(name: str, kind: type, value: Any) -> Any:
    if type(value) is kind:
        return value
    # yaml 1.1 takes 1e-4 (without a dot) for text, and 1 for an int where a float is meant.
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    raise ValueError(f"{name} is {value!r}; {'true or false' if kind is bool else kind.__name__} is needed")


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


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else "m2f train --help lists all"


def _error_with_nearest_flags(error, message: str):
    prefix, _, rest = message.partition("unrecognized arguments:")
    unknown = [word.split("=")[0] for word in rest.split() if word.startswith("--")]
    flags = ["--" + name.replace("_", "-") for name in _FIELDS]
    error("; ".join([message, *(f"{word}: {_nearest(word, flags)}" for word in unknown)]))
