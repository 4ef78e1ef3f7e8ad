#!/usr/bin/env bash
# Installs the tools that m2f's results, runs and pages go into and runs the tests of tests/integrations and those named
# below with them; what cannot be installed is named, and its tests are skipped with what was missing. With
# M2F_TRANSFORMERS_EXAMPLES set to the folder examples/pytorch of a checkout of transformers, its scripts run too.
#     bash scripts/test_integrations.sh
# The environment is .venv-integrations, or the folder M2F_VENV_INTEGRATIONS; PYTHON chooses the interpreter.
# Label Studio's backend is in its repository only: M2F_LABEL_STUDIO_ML may name a checkout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
M2F_VENV="${M2F_VENV_INTEGRATIONS:-.venv-integrations}"
export M2F_VENV OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
. scripts/environment.sh
formats=tests/output_formats/test_format_list.py
tools=(tensorboard wandb mlflow-skinny trackio gradio supervision sahi lightning torchao peft albumentations torchmetrics)
tools+=(cvat-sdk)
tests=(tests/integrations "$formats" tests/training/test_trackers.py tests/browser/test_demo_page.py)
tests+=(tests/commands/test_demo.py)
backend="${M2F_LABEL_STUDIO_ML:-git+https://github.com/HumanSignal/label-studio-ml-backend.git}"
failed=()

# What the model computes with stays; of all else the tools decide the version.
install() {
    python -m pip install --quiet -c <(grep -E '^(torch|transformers|numpy)==' scripts/constraints.txt) "$@"
}

# run_tests NAME TEST...
run_tests() {
    echo "== $1"
    python -m pytest -q -rs "${@:2}" || failed+=("$1")
}

# on_top NAME: an environment of its own over the other, for a tool whose versions fit nothing else.
on_top() {
    local below
    below="$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    activate_environment "$M2F_VENV-$1"
    python -c 'import pathlib, sys, sysconfig
path = pathlib.Path(sysconfig.get_path("purelib"), "below.pth")
path.write_text(f"import site; site.addsitedir({sys.argv[1]!r})\n")' "$below"
}

# In one call, so that one set of versions fits all; one by one where that fails.
if ! install "${tools[@]}"; then
    for tool in "${tools[@]}"; do
        install "$tool" || echo "not installed: $tool" >&2
    done
fi
run_tests "${tools[*]}" "${tests[@]}"
for tool in datumaro label-studio-converter labelme; do
    on_top "$tool"
    if install "$tool"; then run_tests "$tool" "$formats"; else failed+=("$tool"); fi
    . "$M2F_VENV/bin/activate"
done
for tool in ultralytics fiftyone; do
    on_top "$tool"
    if ! install "$tool" torchvision; then
        failed+=("$tool")
    elif python -c "import torchvision" 2>/dev/null; then  # its releases are made for one build of torch
        run_tests "$tool" "$formats" tests/integrations/test_fiftyone_calls.py
    else
        echo "not run: $tool, as torchvision does not load beside this torch" >&2
    fi
    . "$M2F_VENV/bin/activate"
done
on_top label-studio
if install label-studio-sdk "Flask>2.3" colorama semver && install --no-deps "$backend"; then
    run_tests label-studio "$formats" tests/integrations/test_label_studio.py
else
    failed+=(label-studio)
fi
[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}" >&2; exit 1; }
