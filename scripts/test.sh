#!/usr/bin/env bash
# Runs the whole test suite: makes an environment on the first call, then lint, format check, type check and pytest.
# Needs Python 3.10 or later with pip and venv; M2F_VENV and PYTHON choose another environment or interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
unpack_transformers

ruff check .
ruff format --check .
python scripts/link_packages.py
mypy
# One thread for each of the two workers, and no test may wait for the network.
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 pytest -n 2 --dist loadfile "$@"
