# Sourced from the top of the checkout by scripts that need an environment: makes it where it is missing or outdated,
# and activates it.
. scripts/functions.sh
m2f_venv="${M2F_VENV:-.venv}"
m2f_stamp="$m2f_venv/m2f-installed"
m2f_torch="$(sed -n 's/^torch==//p' scripts/constraints.txt)"
activate_environment "$m2f_venv"
m2f_wanted="$(python -c 'import hashlib, pathlib, sys
files = [pathlib.Path(name).read_bytes() for name in ("setup.py", "pyproject.toml", "scripts/constraints.txt")]
print(hashlib.sha256(b"".join(files) + sys.version.encode()).hexdigest(), pathlib.Path.cwd())')"
if [ "$(cat "$m2f_stamp" 2>/dev/null || true)" != "$m2f_wanted" ]; then
    m2f_found="$(python -c 'from importlib import metadata
print(*[found.version for found in metadata.distributions(name="torch")][:1])')"
    # Without the stamp it is somebody's own environment.
    if [ ! -e "$m2f_stamp" ] && [ -n "$m2f_found" ] && [ "${m2f_found%%+*}" != "$m2f_torch" ]; then
        echo "$m2f_venv has torch $m2f_found, and this would replace it by $m2f_torch: set M2F_VENV to a new folder" >&2
        exit 1
    fi
    # torch before all else, so that no other package chooses its build.
    python -m pip install --quiet -c scripts/constraints.txt setuptools "torch==$m2f_torch"
    m2f_extras="test"
    # A checkout has no kernels built ahead, and without a compiler runs at half the speed.
    [ -n "${CXX:-}" ] || command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null ||
        m2f_extras="test,compiler"
    python -m pip install --quiet --no-build-isolation -c scripts/constraints.txt -e ".[$m2f_extras]"
    echo "$m2f_wanted" >"$m2f_stamp"
fi
