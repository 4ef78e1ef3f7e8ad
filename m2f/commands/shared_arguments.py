"""The arguments that several subcommands have: one name, one meaning, one place in the help. No subcommand itself."""

import argparse
from pathlib import Path
from typing import Any

from m2f.commands.config_file import CONFIG
from m2f.inference.batch_limit import AUTO
from m2f.training.training_options import PRECISION_OF_DTYPE, PRECISIONS

# In the order in which the help of every subcommand ends with them. What a subcommand has to say about one (what its
# output is, which default it has) is given with its name.
_SHARED: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "config": (
        ("--config",),
        {"dest": CONFIG, "type": Path, "metavar": "FILE.yaml", "help": "options of this file; flags win over it"},
    ),
    "device": (("--device",), {"metavar": "NAME", "help": "such as cpu or cuda:1 (a GPU if there is one)"}),
    "cpu": (("--cpu",), {"action": "store_const", "const": "cpu", "dest": "device", "help": "same as --device cpu"}),
    "dtype": (("--dtype",), {}),
    "batch_size": (
        ("--batch-size",),
        {"metavar": "N", "help": "images or tiles at a time (bench: 1; else auto)"},
    ),
    "workers": (("--workers",), {"metavar": "N"}),
    "output": (("--output", "--out"), {"type": Path, "metavar": "FOLDER"}),
    "overwrite": (("--overwrite",), {"action": "store_true", "help": "remove the results of an earlier run there"}),
    "json": (("--json",), {"action": "store_true", "help": "print json instead of text"}),
    "dry_run": (("--dry-run",), {"action": "store_true", "help": "say what would be done, and write nothing"}),
}
SHARED_ORDER = tuple(_SHARED)


def _precision(text: str) -> str:
    return PRECISION_OF_DTYPE.get(text, text)


# `--dtype` of what runs in Accelerate, under whose names it is kept: weights stay float32.
MIXED_PRECISION = {
    "aliases": ("--mixed-precision",),
    "dest": "mixed_precision",
    "type": _precision,
    "choices": PRECISIONS,
    "metavar": f"{{{','.join(PRECISION_OF_DTYPE)}}}",
    "help": "of the matrix products (float32); float16 needs a GPU",
}


def add_shared_arguments(parser: argparse.ArgumentParser, **chosen: dict[str, Any]):
    """Arguments at the end of a subcommand's help, in the same order for all.

    Args:
        chosen: name -> settings of `add_argument` in place of the shared ones; and `aliases`, spellings of old.
    """
    for name in sorted(chosen, key=SHARED_ORDER.index):
        flags, shared = _SHARED[name]
        settings = {**shared, **chosen[name]}
        parser.add_argument(*flags, *settings.pop("aliases", ()), **settings)


def count(text: str) -> int:
    """An argument's value that is a positive number."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def count_or_auto(text: str) -> int | str:
    """An argument's value that is a positive number, or "auto"."""
    return AUTO if text == AUTO else count(text)


def count_or_zero(text: str) -> int:
    """An argument's value that counts something of which there may be none."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


# `--batch-size` of commands that choose it themselves.
AUTO_BATCH = {"type": count_or_auto, "default": AUTO}
