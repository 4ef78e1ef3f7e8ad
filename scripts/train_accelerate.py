"""`m2f train` as a file, for launchers that take one:

accelerate launch --num_processes 2 scripts/train_accelerate.py --data DATA --backbone NAME --output RUN
"""

import sys

from m2f.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
