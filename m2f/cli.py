"""The command `m2f`: finds the subcommand, and turns what goes wrong into one line and an exit code (`EXIT_CODES`)."""

import argparse
import importlib
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Mapping, Sequence

from m2f.output.safe_streams import safe_streams
from m2f.output.safe_text import terminal_text

# Subcommand -> its line in the help. Its module in m2f/commands is imported only when it is asked for, because some
# take seconds to import.
COMMANDS = {
    "predict": "segment images: overlays, label maps, COCO json, table, report",
    "check": "read a dataset once, and list what is wrong with it",
    "train": "train a model or fine-tune one; go on after a stop",
    "val": "measure a checkpoint on a dataset: PQ, AP, mIoU",
    "convert": "turn checkpoints of the original and of transformers into m2f's",
    "merge": "add a model's LoRA adapters to its weights",
    "export": "turn a checkpoint into ONNX, OpenVINO or a compiled package",
    "push": "publish a model on the Hub, with its card and its code",
    "bench": "time the model beside transformers' Mask2Former",
    "demo": "serve a page that segments one's own pictures",
    "env": "print versions, hardware and kernels, for a bug report",
    "completion": "print a script that completes commands and options in a shell",
}

EXIT_OK, EXIT_PARTLY = 0, 1
EXIT_ERROR = 2  # argparse's own for wrong arguments
EXIT_INTERRUPTED = 128 + 2  # what shells report for SIGINT
EXIT_BROKEN_PIPE = 128 + 13  # and for SIGPIPE
# Of all commands. What 1 stands for is in a command's `EXIT_CODES`.
EXIT_CODES = {
    EXIT_OK: "done",
    EXIT_PARTLY: "what the command's help says",
    EXIT_ERROR: "an error, in one line",
    EXIT_INTERRUPTED: "Ctrl-C",
    EXIT_BROKEN_PIPE: "output no longer read",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line (without the program's name; `sys.argv` by default) and gives its exit code.

    Raises:
        SystemExit: from argparse, for --help, --version and wrong arguments.
    """
    with safe_streams():
        return _main(sys.argv[1:] if arguments is None else arguments)


def _main(arguments: Sequence[str]) -> int:
    first = main_parser().parse_args(arguments)
    prog, debug = f"m2f {first.command}", first.debug or "--debug" in first.arguments
    try:
        code = _run(first.command, ["--debug", *first.arguments] if first.debug else first.arguments)
        sys.stdout.flush()  # here, where a broken pipe is caught, instead of at exit
        return code
    except BrokenPipeError:
        # A reader such as `head` has had enough. Python flushes once more at exit, which would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as error:
        line = _line_about(error)
        if line is None:  # a fault of the program, which the traceback is to show
            raise
        if debug:
            traceback.print_exc()
        else:
            print(f"{prog}: error: {line}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        print(f"{prog}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def main_parser() -> argparse.ArgumentParser:
    """Of `m2f` itself, which leaves the subcommand's arguments as they are."""
    width = max(map(len, COMMANDS)) + 2
    lines = "".join(f"  {name:{width}}{text}\n" for name, text in COMMANDS.items())
    parser = _OneLineParser(
        prog="m2f",
        usage="%(prog)s [-h] [--version] [--debug] COMMAND ...",
        description=f"Mask2Former for Hugging Face Transformers. Commands:\n{lines}",
        epilog=f"{exit_codes_text(EXIT_CODES)}\n`m2f COMMAND --help` explains a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # it looks at a command's flags too
    )
    # Read from the package itself: the library imports from files only.
    parser.add_argument("--version", action="version", version=f"m2f {sys.modules[__package__].__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help=argparse.SUPPRESS)
    return parser


def command_parser(name: str) -> argparse.ArgumentParser:
    """Of a subcommand, whose module is imported; with `run` among its defaults."""
    module = importlib.import_module(f"m2f.commands.{name}")
    codes = {EXIT_OK: "done", **getattr(module, "EXIT_CODES", {}), EXIT_ERROR: EXIT_CODES[EXIT_ERROR]}
    # An abbreviation would mean something else as soon as there is a new option.
    parser = _OneLineParser(
        prog=f"m2f {name}", allow_abbrev=False, description=module.__doc__, epilog=exit_codes_text(codes)
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    module.add_arguments(parser)
    parser.set_defaults(run=module.run, prog=parser.prog)
    return parser


class _OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it, and what an unknown flag may have been meant as."""

    def _get_values(self, action: argparse.Action, arg_strings: list[str]):
        # argparse drops a "--" that is a flag's value, and gives an empty list in its place.
        if action.option_strings and action.nargs is None and arg_strings == ["--"]:
            raise argparse.ArgumentError(action, "expected one argument")
        return super()._get_values(action, arg_strings)

    def error(self, message: str):
        from m2f.training.option_values import nearest

        _, _, unknown = message.partition("unrecognized arguments:")
        flags = [word.split("=")[0] for word in unknown.split() if word.startswith("--")]
        hints = [f"{flag}: {nearest(flag, self._option_string_actions, self.prog)}" for flag in flags]
        message = terminal_text("; ".join([message, *(hints or [f"`{self.prog} --help` explains"])]))
        self.exit(EXIT_ERROR, f"{self.prog}: error: {message}\n")


def exit_codes_text(codes: Mapping[int, str]) -> str:
    text = "exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in codes.items())
    return textwrap.fill(text, 79, subsequent_indent="  ")


def _run(command: str, words: Sequence[str]) -> int:
    parser = command_parser(command)
    # Imported here: what stands before a command is chosen needs nothing but argparse.
    from m2f.commands.config_file import parse_with_config

    args = parse_with_config(parser, words)
    return args.run(args)


# Errors of the machine and of files that are neither ValueError nor OSError: module -> class. A module that was not
# imported has raised nothing.
_MORE_ERRORS = {
    "safetensors": "SafetensorError",
    "m2f.modeling_m2f.checkpoint_report": "CheckpointMismatchError",
    "m2f.modeling_m2f.kernels.kernel_policy": "KernelUnavailableError",
}
# torch's allocators raise a RuntimeError, on a CPU one without a class of its own.
_OUT_OF_MEMORY = re.compile("can't allocate memory|out of memory", re.IGNORECASE)
# What gloo and NCCL raise in the processes that are left when one of a run's has ended.
_LOST_PROCESS = re.compile(r"gloo/transport|ncclRemoteError|Connection (closed|reset) by peer", re.IGNORECASE)
_LOST_ADVICE = "another process of this run has ended or cannot be reached; the same command goes on (--debug: more)"
_MEMORY_ADVICE = "not enough memory; use a smaller --batch-size, smaller images or --tile"


def _expected_errors() -> tuple[type[Exception], ...]:
    more = (getattr(sys.modules[module], name) for module, name in _MORE_ERRORS.items() if module in sys.modules)
    return (ValueError, OSError, MemoryError, *more)


def _line_about(error: Exception) -> str | None:
    """What to say of an error that is not the program's fault; None of all others."""
    if isinstance(error, RecursionError):  # json's, of a file that is made for it
        return f"a file has too many lists or mappings in each other ({error}); --debug shows which"
    # A package of an extra that is missing; an import that fails otherwise is a fault.
    is_expected = isinstance(error, _expected_errors()) or (
        isinstance(error, ImportError) and "pip install" in str(error)
    )
    if not is_expected and not isinstance(error, RuntimeError):
        return None
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):
        return f"{_MEMORY_ADVICE} ({text})" if text else _MEMORY_ADVICE
    if not is_expected and _LOST_PROCESS.search(text):
        return _LOST_ADVICE
    return (text or type(error).__name__) if is_expected else None
