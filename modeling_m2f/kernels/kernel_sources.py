"""The kernels' sources, as text."""

import functools
import re
from pathlib import Path

CSRC = Path(__file__).parent / "csrc"
_OWN_HEADER = re.compile(r'^#include "(\w+\.h)"$', re.MULTILINE)


@functools.cache
def read_source(name: str) -> str:
    """Text of csrc/`name`, with the project's own headers in place of their `#include` lines."""
    text = (CSRC / name).read_text(encoding="utf-8")
    return _OWN_HEADER.sub(lambda match: read_source(match[1]), text)
