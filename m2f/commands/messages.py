"""What subcommands say to the person at the terminal. No subcommand itself."""

import sys
import unicodedata
from collections.abc import Callable

# Characters that steer a terminal, or turn the direction of what follows.
_CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printer(is_main: bool) -> Callable[[str], None]:
    """Prints lines on standard error, where they do not mix with results; silent on all processes but the main one."""
    return (lambda text: print(text, file=sys.stderr, flush=True)) if is_main else (lambda text: None)


def printable(line: str) -> str:
    """A line without characters that steer a terminal, which the names of files and classes may have."""
    if line.isprintable():
        return line
    return "".join(_escaped(sign) if unicodedata.category(sign) in _CONTROLS else sign for sign in line)


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")
