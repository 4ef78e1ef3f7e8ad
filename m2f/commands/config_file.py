"""`--config FILE.yaml` of the subcommands: the file's values stand in for flags that are not given. No subcommand
itself. `m2f train` reads its file in m2f/commands/train_arguments.py, where presets come in between."""

import argparse
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m2f.training.option_values import nearest, read_mapping, typed

CONFIG = "config_file"  # the attribute by which a parser is known whose file is read here
_NOT_IN_FILES = {"help", "config", "debug"}


def parse_with_config(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """The arguments of `words`, and of the file that their `--config` names where they do not say otherwise.

    Positional arguments may be in the file too. A list on the command line takes the place of the file's.

    Raises:
        ValueError: the file is no mapping, has an unknown name or a value that does not fit.
        OSError: it cannot be read.
    """
    file = _config_of(words)
    if file is None or not any(action.dest == CONFIG for action in parser._actions):
        return parser.parse_args(words)
    values = _file_values(parser, file)
    for action in list(parser._actions):
        if action.dest in values:
            _make_optional(parser, action)
    args = parser.parse_args(words)
    for name, value in values.items():
        # A flag that is not given leaves no attribute, a positional argument None or an empty list.
        if getattr(args, name, None) in (None, []):
            setattr(args, name, value)
    return args


def _config_of(words: Sequence[str]) -> Path | None:
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", type=Path)
    try:
        found = finder.parse_known_args(words)[0].config
        return found if isinstance(found, Path) else None  # "--config=--" gives a list
    except argparse.ArgumentError:  # "--config" without a file is the parser's to complain about
        return None


def _file_values(parser: argparse.ArgumentParser, file: Path) -> dict[str, Any]:
    """Attribute of the namespace -> value."""
    actions = _actions_by_name(parser)
    values: dict[str, Any] = {}
    for name, value in read_mapping(file).items():
        if name not in actions:
            raise ValueError(f"{file}: unknown option {reprlib.repr(name)}; {nearest(name, actions, parser.prog)}")
        action = actions[name]
        try:
            found = _value_of(action, name, value)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        if found is not argparse.SUPPRESS:
            values[action.dest] = found
    return values


def _actions_by_name(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """By every spelling. argparse has no public list of its arguments; this attribute is what tools read."""
    named = {}
    for action in parser._actions:
        spellings = [flag.removeprefix("--") for flag in action.option_strings if flag.startswith("--")]
        for spelling in spellings or [action.dest]:
            named[spelling.replace("-", "_")] = action
    return {name: action for name, action in named.items() if name not in _NOT_IN_FILES}


def _value_of(action: argparse.Action, name: str, value: Any) -> Any:
    """As the command line would give it; SUPPRESS for a flag that is not set."""
    if isinstance(action, argparse._StoreConstAction):  # store_true too
        if typed(name, bool, value):
            return action.const
        return False if action.const is True else argparse.SUPPRESS
    takes_list = isinstance(action, argparse._AppendAction) or action.nargs in ("*", "+")
    if value is None and action.default is None:
        return None
    if takes_list:
        entries = value if isinstance(value, list) else [value]
        return [_scalar(action, name, entry) for entry in entries]
    return _scalar(action, name, value)


def _scalar(action: argparse.Action, name: str, value: Any) -> Any:
    if isinstance(value, bool) and action.nargs == "?":
        return value
    if value is None or isinstance(value, bool | list | dict):
        raise ValueError(f"{name} is {reprlib.repr(value)}; one value is needed")
    convert = action.type if callable(action.type) else str
    try:
        found = convert(str(value))
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{name}: {error}") from error
    except ValueError as error:
        raise ValueError(
            f"{name} is {reprlib.repr(value)}; {getattr(convert, '__name__', 'another value')} is needed"
        ) from error
    if action.choices is not None and found not in action.choices:
        raise ValueError(f"{name} is {reprlib.repr(value)}; it must be one of {', '.join(map(str, action.choices))}")
    return found


def _make_optional(parser: argparse.ArgumentParser, action: argparse.Action):
    """For what the command line may now leave out. What the file switches on can be switched off there."""
    action.default, action.required = argparse.SUPPRESS, False
    if not action.option_strings:
        action.default = None
        if action.nargs is None or action.nargs == "+":
            action.nargs = "?" if action.nargs is None else "*"
    if isinstance(action, argparse._StoreTrueAction):
        off = f"--no-{action.option_strings[0].removeprefix('--')}"
        hidden = argparse.SUPPRESS
        parser.add_argument(off, dest=action.dest, action="store_false", default=hidden, help=hidden)
