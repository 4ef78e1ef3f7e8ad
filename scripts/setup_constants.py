"""What setup.py names, read and not run: it acts on being imported."""

import ast
from pathlib import Path
from typing import Any

SETUP = Path(__file__).resolve().parent.parent / "setup.py"


def setup_constant(name: str) -> Any:
    """The value of a constant at the top of setup.py."""
    for node in ast.parse(SETUP.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise ValueError(f"{SETUP} has no {name}")
