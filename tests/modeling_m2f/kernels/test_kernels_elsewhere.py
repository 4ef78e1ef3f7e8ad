"""Libraries of wheels for other processors and systems: their kernels' tests, in emulators; of those for macOS, which
nothing here can run, the exported names.

M2F_WHEELS names the folder where scripts/build_wheels.py put the wheels, and M2F_ZIG that of its cache of zig's
(ZIG_GLOBAL_CACHE_DIR); the package ziglang has to be installed. Debian's qemu-user and libc6-arm64-cross emulate
aarch64, its wine64 Windows. What is missing is skipped.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from mach_exports import mach_exports

from m2f.modeling_m2f.kernels.built_kernels import MANIFEST
from m2f.modeling_m2f.kernels.processor_level import processor_levels
from m2f.modeling_m2f.kernels.zig_compiler import find_zig, run_commands

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
sys.path.append(str(ROOT / "scripts"))
from kernel_libraries import TARGETS, usual_libraries  # noqa: E402

WORK = ("group_norm", "masked_attention", "ms_deform_attn", "padded_pixels", "point_losses", "resized_masks")
WORK += ("sampled_points", "semantic_votes", "window_attention", "winograd")
# What runs a program of each target on Linux with an x86-64 processor.
EMULATORS = {
    "linux-x86_64": [],
    "linux-aarch64": ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"],
    "windows-x86_64": ["wine"],
}
CASES = [(target, level) for target in EMULATORS for level in TARGETS[target].levels]
# Names that zig's linker adds for macOS.
ADDED = {"__dso_handle", "_mh_dylib_header"}
PLACE = "m2f/modeling_m2f/kernels/built/"


def unpack(target: str, folder: Path):
    """The libraries of a target's wheel and their list."""
    wheels = list(Path(os.environ.get("M2F_WHEELS", ".")).glob(f"m2f-*-{TARGETS[target].tag}.whl"))
    if "M2F_WHEELS" not in os.environ or not wheels:
        pytest.skip(f"M2F_WHEELS names no folder with a wheel for {target}")
    (wheel,) = wheels
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(PLACE):
                (folder / Path(name).name).write_bytes(archive.read(name))


def build_program(target: str, folder: Path):
    """What calls the libraries; without C++'s library, as they are."""
    zig, compiled = find_zig(), folder / "other_machine.o"
    # The least level: zig has made its C library for it, which takes minutes for Windows.
    machine = ["-target", TARGETS[target].triple, f"-mcpu={next(iter(TARGETS[target].levels.values()))}"]
    flags = ("-std=c++17", "-O1", "-fno-exceptions", "-fno-rtti", "-fno-sanitize=all")
    compile_ = [*zig, *machine, *flags, "-c", str(HERE / "other_machine.cpp"), "-o", str(compiled)]
    link = [zig[0], "cc", *machine, "-s", str(compiled), "-o", str(folder / "other_machine.exe")]
    cache = {name: os.environ["M2F_ZIG"] for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")}
    assert run_commands([compile_, link], 600, {**os.environ, **cache}) is None


@pytest.mark.skipif(not find_zig(), reason="the package ziglang is not installed")
@pytest.mark.skipif("M2F_ZIG" not in os.environ, reason="M2F_ZIG names no prepared cache of zig")
@pytest.mark.parametrize(("target", "level"), CASES)
def test_every_library_of_a_wheel_passes_the_tests_of_its_kernel(target, level, tmp_path):
    emulator = EMULATORS[target]
    if emulator and not (shutil.which(emulator[0]) and all(Path(x).is_dir() for x in emulator[2:])):
        pytest.skip(f"{shlex.join(emulator)} is missing")
    if target.endswith("x86_64") and level not in processor_levels():
        pytest.skip(f"this processor is no {level}")
    unpack(target, tmp_path)
    build_program(target, tmp_path)
    command = shlex.join([*emulator, "./other_machine.exe"])
    variables = {"M2F_ELSEWHERE": str(tmp_path), "M2F_ELSEWHERE_LEVEL": level, "M2F_ELSEWHERE_COMMAND": command}
    # What the wheel lacks is not to be compiled for this machine. Wine keeps its settings in a folder.
    variables |= {"CXX": "no-compiler", "WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all"}
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(HERE)])
    files = [str(HERE / f"test_{work}.py") for work in WORK]
    words = ("-p", "kernels_elsewhere", "-p", "no:cacheprovider", "-q", "-k", "not sanitizers", *files)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], env={**os.environ, **variables}, capture_output=True, text=True
    )
    print(done.stdout[-2000:])
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    count = len(list(usual_libraries()))
    found = re.search(rf"^{count} of {count} libraries, (\d+) of (\d+) functions ran", done.stdout, re.MULTILINE)
    assert found and found[1] == found[2], done.stdout


@pytest.mark.parametrize("target", ["macos-aarch64", "macos-x86_64"])
def test_libraries_for_macos_export_what_their_list_says_and_nothing_else(target, tmp_path):
    unpack(target, tmp_path)
    libraries = json.loads((tmp_path / MANIFEST).read_text())["libraries"]
    assert len(libraries) == len(list(usual_libraries())) * len(TARGETS[target].levels)
    for built in libraries:
        exports = mach_exports((tmp_path / built["file"]).read_bytes())
        assert sorted(set(exports) - ADDED) == built["exports"], built["file"]
