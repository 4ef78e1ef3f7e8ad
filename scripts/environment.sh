# Sourced from the top of the checkout by scripts that need an environment: makes it where it is missing or outdated,
# and activates it.
m2f_venv="${M2F_VENV:-.venv}"
m2f_stamp="$m2f_venv/m2f-installed"
[ -x "$m2f_venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$m2f_venv"
. "$m2f_venv/bin/activate"
m2f_wanted="$(python -c 'import hashlib, pathlib, sys
files = [pathlib.Path(name).read_bytes() for name in ("setup.py", "pyproject.toml", "scripts/constraints.txt")]
print(hashlib.sha256(b"".join(files) + sys.version.encode()).hexdigest(), pathlib.Path.cwd())')"
if [ "$(cat "$m2f_stamp" 2>/dev/null || true)" != "$m2f_wanted" ]; then
    # torch before all else, so that no other package chooses its build.
    python -m pip install --quiet -c scripts/constraints.txt setuptools torch==2.13.0
    python -m pip install --quiet --no-build-isolation -c scripts/constraints.txt -e ".[test]"
    echo "$m2f_wanted" >"$m2f_stamp"
fi
