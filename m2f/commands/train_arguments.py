"""The arguments of `m2f train`: a flag for each field of `TrainingOptions`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m2f.training.option_values import (
    OPTION_FIELDS,
    OTHER_NAMES,
    PRECISION,
    is_list,
    read_options,
    resolve_options,
    value_type,
)
from m2f.training.training_options import PRECISION_OF_DTYPE, TrainingOptions

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
    "white_level": "VALUE",
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
# argparse would list all flags.
_USAGE = "%(prog)s --data DATA (--model | --backbone | --scratch) NAME [--config FILE.yaml] [option ...]"


def add_option_arguments(parser: argparse.ArgumentParser, last: Sequence[str] = ()):
    """A flag for each field, and `--config`. A flag that is not given leaves no attribute.

    Args:
        last: flags that the help ends with, in this order.
    """
    at_end = [name for name in (OTHER_NAMES.get(name, name) for name in last) if name in OPTION_FIELDS]
    for name in [name for name in OPTION_FIELDS if name not in at_end]:
        _add_flag(parser, name)
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="options of this file; flags win over it")
    for name in at_end:
        _add_flag(parser, name)
    parser.usage = _USAGE


def options_from_arguments(args: argparse.Namespace) -> TrainingOptions:
    """The options that the parsed arguments of `add_option_arguments` ask for.

    Raises:
        ValueError, OSError: see `resolve_options` and `read_options`.
    """
    flags = {name: value for name, value in vars(args).items() if name in OPTION_FIELDS}
    return resolve_options(flags, read_options(args.config) if args.config else {})


def _add_flag(parser: argparse.ArgumentParser, name: str):
    entry, kind = OPTION_FIELDS[name], value_type(name)
    help = entry.metadata["help"].replace("%", "%%") + ("" if name == PRECISION else _default_text(entry.default))
    settings: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": help}
    names = [name, *(other for other, field in OTHER_NAMES.items() if field == name)]
    flags = ["--" + spelling.replace("_", "-") for spelling in names]
    if kind is bool:
        parser.add_argument(*flags, action=argparse.BooleanOptionalAction, **settings)
        return
    if is_list(name):
        settings["nargs"] = "*"
    choices = PRECISION_OF_DTYPE if name == PRECISION else entry.metadata["choices"]
    metavar = f"{{{','.join(choices)}}}" if choices else _METAVARS_OF.get(name, _METAVARS[kind])
    parser.add_argument(*flags, type=kind, metavar=metavar, **settings)


def _default_text(default: Any) -> str:
    if default is None or default == "" or default == () or isinstance(default, bool):
        return ""
    return f" ({default})"
