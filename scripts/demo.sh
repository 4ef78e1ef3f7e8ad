#!/usr/bin/env bash
# Segments the bundled images with the bundled checkpoint and measures the result: makes an environment on the first
# call, then runs scripts/nuclei_demo.py with the arguments given here; --train trains a model instead.
# Needs Python 3.10 or later with pip and venv; M2F_VENV and PYTHON choose another environment or interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
exec python scripts/nuclei_demo.py "$@"
