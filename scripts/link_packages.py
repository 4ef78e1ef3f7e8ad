"""Puts the packages under their import names into build/packages, as links: `python scripts/link_packages.py`.

The checkout keeps three packages beside the others (`FOLDERS` in setup.py); Python finds them through m2f/__init__.py.
Type checkers and editors follow no code: they look in build/packages, which pyproject.toml names to them.
"""

import os
from pathlib import Path

from setup_constants import setup_constant

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ROOT / "build" / "packages"


def link(target: Path, place: Path):
    """A relative link, so that the checkout may be moved."""
    if place.is_symlink():
        place.unlink()
    place.symlink_to(os.path.relpath(target, place.parent), target.is_dir())


def main():
    for old in PACKAGES.glob("*/*"):
        old.unlink()  # what a folder held before
    for name, folder in setup_constant("FOLDERS").items():
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
