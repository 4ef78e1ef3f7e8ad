"""What subcommands say to the person at the terminal. No subcommand itself."""

import sys
from collections.abc import Callable, Iterable

from m2f.output.safe_text import terminal_text


def print_lines(lines: Iterable[str]):
    """Results on standard output. A name of a file or class in them ends no line and moves no cursor."""
    for line in lines:
        print(terminal_text(line))


def printer(is_main: bool) -> Callable[[str], None]:
    """Prints a line on standard error, where it does not mix with results; silent on all processes but the main one,
    where a command runs in several."""
    return (lambda text: print(terminal_text(text), file=sys.stderr, flush=True)) if is_main else (lambda text: None)
