"""The package as users get it: wheel, source distribution, editable install, and a checkout that is not installed.

Each is tried in a virtual environment of its own that sees torch and transformers of the running one, so nothing is
downloaded.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("configuration", "image_processing", "m2f", "modeling_m2f")
CHECKPOINT = "m2f/checkpoints/nuclei"
SUBPACKAGES = ("configuration", "image_processing", "modeling_m2f")
# Printed by a new interpreter: where the package and one module of each mapped folder come from.
WHERE = """
import json, m2f
from m2f.configuration import configuration_m2f
from m2f.image_processing import image_processing_m2f
from m2f.modeling_m2f import modeling_m2f
from m2f.modeling_m2f.kernels import ms_deform_attn
modules = (m2f, configuration_m2f, image_processing_m2f, modeling_m2f, ms_deform_attn)
print(json.dumps([module.__file__ for module in modules]))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run in a folder that is not the checkout, with compilers that fail: the package must need none."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"CC": "false", "CXX": "false", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(environment: Path, *arguments: str | Path) -> None:
    python = environment / "bin" / "python"
    # --ignore-installed: the running environment, which the new one sees, may have m2f itself.
    options = ("--no-deps", "--ignore-installed")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, *arguments, cwd=environment)


def new_environment(path: Path) -> Path:
    venv.create(path, with_pip=False)
    packages = path / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    # Listed in a .pth, the running environment's packages come after those of the new one.
    (packages / "running_environment.pth").write_text(sysconfig.get_paths()["purelib"])
    return path


def imported_from(environment: Path, cwd: Path) -> list[Path]:
    return [Path(file) for file in json.loads(run(environment / "bin" / "python", "-c", WHERE, cwd=cwd))]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of what the packages are built from: building writes into the folder, and tests run side by side."""
    target = tmp_path_factory.mktemp("checkout")
    files = [ROOT / name for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE")]
    for folder in (*FOLDERS, "tests", "scripts"):
        files += [file for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    for file in files:
        copy = target / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    return target


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return built_wheel(checkout, folder)


def built_wheel(source: Path, folder: Path) -> Path:
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source, cwd=folder)
    return next(folder.glob("*.whl"))


def sources(root: Path) -> set[str]:
    """Names in a wheel of the Python files, kernel sources and bundled checkpoints of a checkout."""
    names = {file.relative_to(root).as_posix() for file in (root / CHECKPOINT).rglob("*") if file.is_file()}
    assert {f"{CHECKPOINT}/{name}" for name in ("config.json", "model.safetensors", "README.md")} <= names
    for folder in FOLDERS:
        for file in [file for kind in ("*.py", "csrc/*", "py.typed") for file in (root / folder).rglob(kind)]:
            name = file.relative_to(root).as_posix()
            names.add(name if folder == "m2f" else f"m2f/{name}")
    return names


def test_wheel_holds_the_package_and_nothing_else(wheel, checkout):
    names = zipfile.ZipFile(wheel).namelist()
    information = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert set(names) - information == sources(checkout)
    assert {name.split("/")[0] for name in set(names) - information} == {"m2f"}
    assert any(name.endswith("/LICENSE") for name in information)
    assert wheel.name.endswith("-py3-none-any.whl")  # nothing was compiled


def metadata_of(wheel: Path) -> str:
    name = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    return zipfile.ZipFile(wheel).read(name).decode()


def requirements_of(wheel: Path) -> list[Requirement]:
    return [Requirement(line) for line in re.findall(r"^Requires-Dist: (.+)$", metadata_of(wheel), re.MULTILINE)]


def test_wheel_requires_the_named_packages(wheel):
    metadata = metadata_of(wheel)
    required = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, re.MULTILINE)
    # What the code imports; pytest is in the extra "test", and torchvision is not needed.
    expected = {"accelerate", "datasets", "evaluate", "faster-coco-eval", "huggingface-hub", "numpy", "pillow"}
    expected |= {"jinja2", "markupsafe", "packaging", "psutil", "pycocotools", "pyyaml", "safetensors", "scipy"}
    expected |= {"shtab", "torch", "tqdm", "transformers"}
    assert set(required) == expected
    assert "Requires-Python: >=3.10" in metadata
    stated = re.search(r'^__version__ = "(.+)"$', (ROOT / "m2f" / "__init__.py").read_text(), re.MULTILINE)
    assert f"\nVersion: {stated[1]}\n" in metadata
    assert re.search(r"^Requires-Dist: pytest\S*; extra == .test.$", metadata, re.MULTILINE)


def test_no_newer_release_that_a_user_has_is_replaced_by_an_older_one(wheel):
    """Of any requirement, those of the extras too: to keep an upper bound pip installs an older release."""
    bounded = [str(found) for found in requirements_of(wheel) if not found.specifier.contains("9999.0")]
    assert not bounded and {"torch", "transformers"} <= {found.name for found in requirements_of(wheel)}


def test_oldest_versions_are_tested_at_the_lower_bounds_of_the_package(wheel):
    """scripts/test_versions.sh installs what scripts/lower_bounds.py prints."""
    printed = run(sys.executable, ROOT / "scripts" / "lower_bounds.py", cwd=wheel.parent).split()
    found = {f"{required.name}{required.specifier}" for required in requirements_of(wheel) if not required.marker}
    assert set(printed) == {requirement.replace(">=", "==") for requirement in found} and "torch==2.11" in printed


def test_an_environment_that_has_another_torch_is_left_alone(tmp_path):
    """M2F_VENV may name somebody's own; the suite's constraints would bring its torch to another version."""
    environment = new_environment(tmp_path / "venv")
    (environment / "bin" / "pip").symlink_to(shutil.which("false"))
    packages = next(environment.glob("lib/*/site-packages"))
    (packages / "torch-99.0+cpu.dist-info").mkdir()
    (packages / "torch-99.0+cpu.dist-info" / "METADATA").write_text("Name: torch\nVersion: 99.0+cpu\n")
    variables = {**os.environ, "M2F_VENV": str(environment), "PIP_NO_INDEX": "1"}
    command = ["bash", "-e", "-c", ". scripts/environment.sh"]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 1 and "has torch 99.0+cpu, and this would replace it by 2.13.0" in done.stderr, (
        done.stderr
    )
    assert not (environment / "m2f-installed").exists()


def test_installed_wheel_imports_without_a_compiler(wheel, tmp_path):
    environment = new_environment(tmp_path / "venv")
    install(environment, wheel)
    files = imported_from(environment, cwd=tmp_path)
    assert all(file.is_relative_to(environment) for file in files), files


def test_unpacked_wheel_segments_an_image_with_the_bundled_checkpoint(wheel, tmp_path):
    """scripts/check_wheel.sh does this in an environment that has nothing else."""
    environment = new_environment(tmp_path / "venv")
    packages = next(environment.glob("lib/*/site-packages"))
    zipfile.ZipFile(wheel).extractall(packages)
    image = shutil.copy(next((ROOT / "examples" / "nuclei" / "val").glob("*.png")), tmp_path / "image.png")
    words = ("-m", "m2f", "predict", image, "--device", "cpu")
    printed = run(environment / "bin" / "python", *words, cwd=tmp_path)
    assert "1 images" in printed and "report: m2f_predictions/report.html" in printed
    annotations = json.loads((tmp_path / "m2f_predictions" / "predictions.json").read_text())["annotations"]
    assert len(annotations) > 5  # of about twenty nuclei


def test_source_distribution_builds_the_same_wheel(checkout, wheel, tmp_path):
    build = "from setuptools.build_meta import build_sdist; import sys; build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, tmp_path, cwd=checkout)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = next(path for path in tmp_path.iterdir() if path.is_dir())
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= {path.name for path in unpacked.iterdir()}
    assert sources(unpacked) == sources(checkout)
    rebuilt = zipfile.ZipFile(built_wheel(unpacked, tmp_path))
    assert sorted(rebuilt.namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_editable_install_imports_the_checkout(checkout, tmp_path):
    environment = new_environment(tmp_path / "venv")
    install(environment, "--no-build-isolation", "-e", checkout)
    files = imported_from(environment, cwd=tmp_path)
    assert all(file.is_relative_to(checkout) for file in files), files


def test_checkout_imports_without_installation(checkout, tmp_path):
    environment = new_environment(tmp_path / "venv")
    files = imported_from(environment, cwd=checkout)
    assert all(file.is_relative_to(checkout) for file in files), files


def test_other_packages_named_like_our_folders_are_left_alone(wheel, tmp_path):
    """Top-level packages `configuration`, `image_processing` and `modeling_m2f` may be other people's."""
    environment = new_environment(tmp_path / "venv")
    packages = next(environment.glob("lib/*/site-packages"))
    for name in SUBPACKAGES:
        (packages / name).mkdir()
        (packages / name / "__init__.py").write_text("OTHER = True")
    install(environment, wheel)
    code = f"import m2f, {', '.join(SUBPACKAGES)}; print(all(p.OTHER for p in ({', '.join(SUBPACKAGES)},)))"
    assert run(environment / "bin" / "python", "-c", code, cwd=tmp_path) == "True\n"
