#!/usr/bin/env bash
# Installs the tools that m2f's results, runs and pages go into, each if it can be installed beside the rest, and runs the
# tests of tests/integrations and those named below with them; what is not installed is skipped with its reason. With
# M2F_TRANSFORMERS_EXAMPLES set to the folder examples/pytorch of a checkout of transformers, its scripts run too.
#     bash scripts/test_integrations.sh [TEST...]
# The environment is .venv-integrations, or the folder M2F_VENV_INTEGRATIONS; PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
M2F_VENV="${M2F_VENV_INTEGRATIONS:-.venv-integrations}"
export M2F_VENV
. scripts/environment.sh
tools=(tensorboard wandb mlflow-skinny trackio gradio supervision sahi cvat-sdk)
tools+=(lightning torchao peft albumentations torchmetrics)
tests=(tests/integrations tests/output_formats/test_format_list.py tests/training/test_trackers.py)
tests+=(tests/browser/test_demo_page.py tests/commands/test_demo.py)
missing=()
for tool in "${tools[@]}"; do
    python -m pip install --quiet -c scripts/constraints.txt "$tool" || missing+=("$tool")
done
[ ${#missing[@]} -eq 0 ] || echo "not installed: ${missing[*]}"
[ $# -eq 0 ] || tests=("$@")
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 python -m pytest -q -rs "${tests[@]}"
