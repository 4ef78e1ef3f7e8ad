#!/usr/bin/env bash
# Trains a small model on the bundled images and shows what it predicts on others: makes an environment on the first
# call, then runs scripts/demo.py with the arguments given here.
# Needs Python 3.10 or later with pip and venv; M2F_VENV and PYTHON choose another environment or interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
exec python scripts/demo.py "$@"
