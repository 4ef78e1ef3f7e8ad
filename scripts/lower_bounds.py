"""Prints the oldest release of each package that setup.py admits, as constraints for pip."""

import ast
import re
from pathlib import Path

SETUP = Path(__file__).resolve().parent.parent / "setup.py"


def requirements() -> list[str]:
    """What users install. Read, not run: setup.py acts on being imported."""
    for node in ast.parse(SETUP.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "REQUIREMENTS":
            return ast.literal_eval(node.value)
    raise ValueError(f"{SETUP} has no REQUIREMENTS")


def lower_bound(requirement: str) -> str:
    match = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement)
    if match is None:
        raise ValueError(f"{requirement} in {SETUP} is not of the form name>=version")
    return "{}=={}".format(*match.groups())


if __name__ == "__main__":
    print("\n".join(map(lower_bound, requirements())))
