#!/usr/bin/env bash
# Runs the whole test suite: makes an environment on the first call, then lint, format check and pytest.
# Needs Python 3.10 or later with pip and venv; M2F_VENV and PYTHON choose another environment or interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh

# transformers' common tests are in its source distribution only, those of its models in its repository only, of which
# the variable may name a checkout.
release="transformers-$(python -c 'from importlib.metadata import version; print(version("transformers"))')"
export M2F_TRANSFORMERS_SOURCE="${M2F_TRANSFORMERS_SOURCE:-$VIRTUAL_ENV/source/$release}"
if [ ! -f "$M2F_TRANSFORMERS_SOURCE/tests/test_modeling_common.py" ]; then
    python -m pip download --quiet --no-deps --no-build-isolation --no-binary transformers \
        -d "$VIRTUAL_ENV/source" "${release/-/==}"
    tar -xzf "$VIRTUAL_ENV/source/$release.tar.gz" -C "$VIRTUAL_ENV/source"
fi

ruff check .
ruff format --check .
# One thread for each of the two workers, and no test may wait for the network.
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 pytest -n 2 --dist loadfile "$@"
