#!/usr/bin/env bash
# Builds the wheel, installs it into an empty environment outside the checkout, and segments an image there with the
# bundled checkpoint. Takes minutes and downloads what m2f needs; tests/test_packaging.py has a short form.
# PYTHON chooses another interpreter; arguments go to pip, such as --find-links FOLDER for another build of torch.
set -euo pipefail
checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
python="$folder/venv/bin/python"
"$python" -m pip install --quiet -c "$checkout/scripts/constraints.txt" "$@" setuptools torch==2.13.0
# A copy: building writes into the folder.
mkdir "$folder/checkout"
(cd "$checkout" && tar -c --exclude=__pycache__ setup.py pyproject.toml README.md LICENSE m2f configuration \
    image_processing modeling_m2f) | tar -x -C "$folder/checkout"
"$python" -m pip wheel --quiet --no-deps --no-build-isolation -w "$folder" "$folder/checkout"
"$python" -m pip install --quiet -c "$checkout/scripts/constraints.txt" "$@" "$folder"/m2f-*.whl
cp "$(find "$checkout/examples/nuclei/val" -name '*.png' | sort | head -1)" "$folder/image.png"
cd "$folder"
env -u PYTHONPATH "$folder/venv/bin/m2f" predict image.png --device cpu
env -u PYTHONPATH "$python" - <<'END'
import json
from pathlib import Path

import m2f

print(f"m2f {m2f.__version__} of {Path(m2f.__file__).parent}")
count = len(json.loads(Path("m2f_predictions/predictions.json").read_text())["annotations"])
assert count > 5 and Path("m2f_predictions/report.html").is_file(), f"{count} nuclei"
print(f"{count} nuclei; the wheel works")
END
