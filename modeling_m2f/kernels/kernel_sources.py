"""The kernels' sources, as text."""

import functools
from pathlib import Path

CSRC = Path(__file__).parent / "csrc"


@functools.cache
def read_source(name: str) -> str:
    """Text of csrc/`name`."""
    return (CSRC / name).read_text(encoding="utf-8")
