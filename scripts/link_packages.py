"""Puts the packages under their import names into build/packages, as links: `python scripts/link_packages.py`.

The checkout keeps three packages beside the others (`FOLDERS` in setup.py); Python finds them through m2f/__init__.py.
Type checkers and editors follow no code: they look in build/packages, which pyproject.toml names to them.
"""

import ast
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ROOT / "build" / "packages"


def folders() -> dict[str, str]:
    """Import name -> folder. Read, not run: setup.py acts on being imported."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "FOLDERS":
            return ast.literal_eval(node.value)
    raise ValueError("setup.py has no FOLDERS")


def link(target: Path, place: Path):
    """A relative link, so that the checkout may be moved."""
    if place.is_symlink():
        place.unlink()
    place.symlink_to(os.path.relpath(target, place.parent), target.is_dir())


def main():
    for old in PACKAGES.glob("*/*"):
        old.unlink()  # what a folder held before
    for name, folder in folders().items():
        place = PACKAGES / name.replace(".", "/")
        if "." in name:
            link(ROOT / folder, place)
            continue
        place.mkdir(parents=True, exist_ok=True)
        for entry in sorted((ROOT / folder).iterdir()):
            if entry.name != "__pycache__":
                link(entry, place / entry.name)


if __name__ == "__main__":
    main()
