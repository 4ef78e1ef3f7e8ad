"""The command `m2f`: finds the subcommand, and turns what goes wrong into one line and an exit code.

Exit codes: 0, or what the subcommand says; 2 for wrong arguments and for errors in files and values; 130 after Ctrl-C.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

# Subcommand -> its line in the help. Its module in m2f/commands is imported only when it is asked for, because some
# take seconds to import.
COMMANDS = {
    "predict": "segment images, and write overlays, label maps, a COCO json, a table and a report",
    "check": "read a dataset once, list what is wrong with it, and draw a contact sheet",
    "train": "train a model on a dataset, evaluate it on the way, keep the best one, and go on after a stop",
    "val": "measure a checkpoint on a dataset, and write its predictions in the official formats",
    "convert": "turn checkpoints of the original and of transformers into ones of m2f, and back",
    "push": "publish a model on the Hub, with its card and on request with its code",
    "bench": "time the model beside transformers' Mask2Former on this machine",
    "env": "print versions, hardware and kernels, for a bug report",
}

EXIT_ERROR = 2  # argparse's own for wrong arguments
EXIT_INTERRUPTED = 128 + 2  # what shells report for SIGINT
EXIT_BROKEN_PIPE = 128 + 13  # and for SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line (without the program's name; `sys.argv` by default) and gives its exit code.

    Raises:
        SystemExit: from argparse, for --help, --version and wrong arguments.
    """
    args = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        code = args.run(args)
        sys.stdout.flush()  # here, where a broken pipe is caught, instead of at exit
        return code
    except BrokenPipeError:
        # A reader such as `head` has had enough. Python flushes once more at exit, which would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (ValueError, OSError) as error:
        if args.debug:
            traceback.print_exc()
        else:
            print(f"{args.prog}: error: {_one_line(error)}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        if args.debug:
            traceback.print_exc()
        print(f"{args.prog}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The subcommand's arguments, with its `run`, its `prog`, and `debug`."""
    first = _main_parser().parse_args(arguments)
    module = importlib.import_module(f"m2f.commands.{first.command}")
    parser = argparse.ArgumentParser(prog=f"m2f {first.command}", description=module.__doc__)
    parser.add_argument("--debug", action="store_true", default=first.debug, help="show the traceback of an error")
    module.add_arguments(parser)
    parser.set_defaults(run=module.run, prog=parser.prog)
    return parser.parse_args(first.arguments)


def _main_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS)) + 2
    lines = "".join(f"  {name:{width}}{text}\n" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="m2f",
        description="Mask2Former for Hugging Face Transformers.",
        epilog=f"commands:\n{lines}\n`m2f COMMAND --help` explains a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Read from the package itself: the library imports from files only.
    parser.add_argument("--version", action="version", version=f"m2f {sys.modules[__package__].__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the command's own arguments")
    return parser


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
