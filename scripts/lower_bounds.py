"""Prints the oldest release of each package that setup.py admits, as constraints for pip."""

import re

from setup_constants import SETUP, setup_constant


def lower_bound(requirement: str) -> str:
    match = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement)
    if match is None:
        raise ValueError(f"{requirement} in {SETUP} is not of the form name>=version")
    return "{}=={}".format(*match.groups())


if __name__ == "__main__":
    print("\n".join(map(lower_bound, setup_constant("REQUIREMENTS"))))
