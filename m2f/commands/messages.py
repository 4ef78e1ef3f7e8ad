"""What subcommands that run in several processes say to the person at the terminal. No subcommand itself."""

import sys
from collections.abc import Callable


def printer(is_main: bool) -> Callable[[str], None]:
    """Prints lines on standard error, where they do not mix with results; silent on all processes but the main one."""
    return (lambda text: print(text, file=sys.stderr, flush=True)) if is_main else (lambda text: None)
