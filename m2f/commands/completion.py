"""Prints a script that makes a shell complete the commands of m2f, their options, the options' choices and files:

bash: `m2f completion bash > ~/.local/share/bash-completion/completions/m2f`;
zsh: `m2f completion zsh > FOLDER/_m2f`, a folder of $fpath;
fish: `m2f completion fish > ~/.config/fish/completions/m2f.fish`."""

import argparse

from transformers.utils import logging

from m2f.cli import COMMANDS, command_parser

SHELLS = ("bash", "zsh", "fish")
_FOLDERS, _FILES = ("FOLDER",), ("FILE", "DATA", "INPUT", "CHECKPOINT", "SOURCE", "TARGET")


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("shell", choices=SHELLS, help="shell that is to complete")


def run(args: argparse.Namespace) -> int:
    print(completion_script(args.shell))
    return 0


def completion_script(shell: str) -> str:
    """For one of `SHELLS`."""
    import shtab

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the subcommands are imported for their arguments alone
    try:
        return shtab.complete(whole_parser(), shell)
    finally:
        logging.set_verbosity(verbosity)


def whole_parser() -> argparse.ArgumentParser:
    """Of `m2f` with all its subcommands, which are imported for it. It is for completion only: the command line itself
    reads the two parts one after the other."""
    parser = argparse.ArgumentParser(prog="m2f", description="Mask2Former for Hugging Face Transformers.")
    parser.add_argument("--version", action="store_true", help="show program's version number and exit")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in COMMANDS.items():
        # `help` makes the subcommand known to the shells by its line.
        whole = commands.add_parser(name, help=text, parents=[command_parser(name)], add_help=False)
        for action in whole._actions:
            _name_completion(action)
    return parser


def _name_completion(action: argparse.Action):
    """What the shell offers for a value, by the word that stands for it in the help."""
    import shtab

    metavar = action.metavar if isinstance(action.metavar, str) else ""
    if metavar.startswith(_FOLDERS):
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # shtab's own attribute
    elif metavar.startswith(_FILES):
        action.complete = shtab.FILE  # type: ignore[attr-defined]  # likewise
    elif metavar.startswith("{"):  # what an option takes beside the names that it keeps, or checks by itself
        action.choices = metavar.strip("{}").split(",")
