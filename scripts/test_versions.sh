#!/usr/bin/env bash
# Runs the tests that depend most on other libraries with the oldest releases that setup.py admits, and with the newest
# that there are:
#     bash scripts/test_versions.sh [oldest] [newest] [-- TEST...]
# Without a name both; TEST is anything that pytest takes instead of the tests below. Each has an environment of its own
# in .venv-oldest and .venv-newest, or in the folders M2F_VENV_OLDEST and M2F_VENV_NEWEST; a CUDA build of torch makes
# either 6 GB large. A second call goes on where the first was interrupted, and looks for newer releases.
# PYTHON chooses the interpreter. For `oldest` 3.10 or 3.11: the oldest releases are not built for all later ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/functions.sh
tests=(tests/parity tests/hub tests/test_pipeline.py tests/modeling_m2f/test_transformers_common.py)

names=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case "$1" in
        oldest | newest) names+=("$1") ;;
        *) echo "$1 is neither oldest nor newest; tests come after --" >&2 && exit 2 ;;
    esac
    shift
done
[ $# -lt 2 ] || tests=("${@:2}")
[ ${#names[@]} -gt 0 ] || names=(oldest newest)

folder_of() {
    case "$1" in
        oldest) echo "${M2F_VENV_OLDEST:-.venv-oldest}" ;;
        newest) echo "${M2F_VENV_NEWEST:-.venv-newest}" ;;
    esac
}

install_oldest() {
    python scripts/lower_bounds.py >"$VIRTUAL_ENV/lower_bounds.txt"
    python -m pip install --quiet --no-build-isolation -c "$VIRTUAL_ENV/lower_bounds.txt" -e ".[test]"
}

install_newest() {
    python -m pip install --quiet --no-build-isolation --upgrade --upgrade-strategy eager -e ".[test]"
}

test_in_environment() {
    local status=0 versions result="$(folder_of "$1")/m2f-result"
    rm -f "$result"
    activate_environment "$(folder_of "$1")"
    python -m pip install --quiet --upgrade setuptools
    "install_$1"
    versions="$(python -c 'import platform, torch, transformers
print(f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}")')"
    echo "$1: $versions"
    unpack_transformers
    OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 python -m pytest -q -n 2 --dist loadfile "${tests[@]}" |
        tee "$VIRTUAL_ENV/m2f-tests.log" || status=$?
    echo "$1: $versions: $(tail -n 1 "$VIRTUAL_ENV/m2f-tests.log")" | tee "$result"
    return $status
}

if [ ${#names[@]} -eq 1 ]; then
    test_in_environment "${names[0]}"
    exit
fi
# Each in a process of its own: an environment cannot be left, and what fails in one does not keep from the other.
status=0
for name in "${names[@]}"; do
    bash scripts/test_versions.sh "$name" -- "${tests[@]}" || status=$?
done
echo
for name in "${names[@]}"; do
    cat "$(folder_of "$name")/m2f-result" 2>/dev/null || echo "$name: not installed, see above"
done
exit $status
