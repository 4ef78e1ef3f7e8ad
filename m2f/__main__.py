"""`python -m m2f` is the command `m2f`."""

import sys

from m2f.cli import main

if __name__ == "__main__":
    sys.exit(main())
