"""Option files and command lines that were damaged or drawn at random: they are taken, or refused in one line. From
seeds."""

import argparse
import random

import pytest

from m2f.cli import COMMANDS, command_parser, main
from m2f.commands.config_file import parse_with_config
from m2f.image_processing.flat_yaml import flat_yaml

YAML = """\
# of a run
data: [photos/train, 'photos/val']
batch_size: 2
"learning-rate": 1e-4
class_weights: {cell: 1.0, nucleus: 2.5}
classes: |
  a
  b
overwrite: true
seed: 0x1F
date: 2026-01-31
nothing: ~
"""
TOKENS = ["&a", "*a", "<<: *a", "!!int ''", "!!python/name:os.system", "!!binary x", "!!set {a}", "!!omap [a: 1]", "{"]
TOKENS += [
    "[",
    "]",
    "}",
    ": ",
    "- ",
    "\t",
    "\n",
    "\r",
    "---\n",
    "...\n",
    "%YAML 9.9\n",
    "? ",
    "|9\n",
    ">-\n",
    "'",
    '"',
]
TOKENS += [
    "\x00",
    "\x1b[31m",
    "\u2028",
    "\ud800",
    "1e999",
    ".inf",
    ".nan",
    "0b2",
    "1_0",
    "12:30:45",
    "=",
    "!",
    "@",
    "`",
]
WORDS = [
    "0",
    "-1",
    "1e309",
    "nan",
    "",
    "-",
    "--",
    "=",
    "\x1b[2J",
    "x" * 300,
    "a=b",
    "64x",
    "64x96",
    "9" * 400,
    "\u202e",
]
WORDS += [
    "None",
    "[1]",
    "{}",
    "1,2",
    "0.5",
    "-0.0",
    "true",
    "auto",
    "@file",
    "no/such/path",
    "no/such/path.json",
    "\n",
]


def damaged(text: str, rng: random.Random) -> str:
    for _ in range(rng.choice([1, 1, 2, 5])):
        place, length = rng.randrange(len(text) + 1), rng.randrange(1, 9)
        kind = rng.randrange(4)
        if kind == 0:
            text = text[:place] + rng.choice(TOKENS) + text[place:]
        elif kind == 1:
            text = text[:place] + text[place + length :]
        elif kind == 2:
            start = rng.randrange(len(text) + 1)
            text = text[:place] + text[start : start + 10 * length] + text[place:]
        else:
            text = text[:place] + rng.choice(TOKENS) * rng.choice([1, 3, 500]) + text[place + length :]
    return text


def test_damaged_option_files_are_read_or_refused():
    results = {True: 0, False: 0}
    for seed in range(2_000):
        text = damaged(YAML, random.Random(seed))
        try:
            flat_yaml(text, "options.yaml")
            results[True] += 1
        except ValueError as error:
            assert str(error).startswith("options.yaml is no yaml file: ") and len(str(error)) < 1000, seed
            results[False] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}, of {text!r}") from error
    assert min(results.values()) > 100, results


def line(parser: argparse.ArgumentParser, rng: random.Random) -> list[str]:
    """Words: flags of the command, some of them misspelt, with values of any kind."""
    flags = sorted(set(parser._option_string_actions) - {"-h", "--help", "--debug"})
    words = []
    for _ in range(rng.randrange(1, 8)):
        flag = rng.choice(flags)
        kind = rng.randrange(6)
        if kind == 0:
            place = rng.randrange(len(flag))
            words.append(flag[:place] + rng.choice("x-=\x1b") + flag[place + 1 :])
        elif kind == 1:
            words.append(f"{flag}={rng.choice(WORDS)}")
        else:
            action = parser._option_string_actions[flag]
            known = [str(choice) for choice in action.choices or ()]
            words += [flag, rng.choice(WORDS + known * 3)] if action.nargs != 0 else [flag]
        if rng.random() < 0.3:
            words.append(rng.choice(WORDS))
    return words


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"completion"}))  # which has no flags
def test_command_lines_are_taken_or_refused_in_one_line(command, capsys):
    parser = command_parser(command)
    for seed in range(300):
        words = line(parser, random.Random(f"{command} {seed}"))
        try:
            parse_with_config(parser, words)
        except (ValueError, OSError):  # the frame's to print
            continue
        except SystemExit as end:
            written = capsys.readouterr().err
            assert end.code == 2 and written.startswith(f"m2f {command}: error: "), (seed, words)
            assert written.count("\n") == 1 and "\x1b" not in written, (seed, words)
        except BaseException as error:
            raise AssertionError(f"{command}, seed {seed}: {type(error).__name__}: {error}, of {words}") from error


@pytest.mark.parametrize("command", ["predict", "check", "train", "val", "convert", "export", "push"])
def test_commands_without_their_files_end_in_one_line(command, capsys, tmp_path, monkeypatch):
    """Whatever else is on the line; nothing is written."""
    monkeypatch.chdir(tmp_path)
    parser = command_parser(command)
    needed = ["missing/a/b", "missing/c/d"][: sum(not action.option_strings for action in parser._actions)]
    needed += [word for action in parser._actions if action.required and action.option_strings
               for word in (action.option_strings[0], "missing/e/f")]  # fmt: skip
    for seed in range(60):
        words = [command, *needed, *line(parser, random.Random(f"{command} {seed}"))]
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            raise AssertionError(f"{command}, seed {seed}: {type(error).__name__}: {error}, of {words}") from error
        out, written = capsys.readouterr()
        if command == "check" and code == 1:  # a split that is missing is a finding
            assert "ERROR datasets or splits that cannot be opened: 1" in out, (seed, words)
        else:
            assert code == 2 and f"m2f {command}: error: " in written, (seed, code, words, written)
        assert "Traceback" not in written, (seed, words)
        assert not list(tmp_path.iterdir()), (seed, words)
