"""The C++ kernel under the compiler's sanitizers: no access outside its buffers, nothing undefined, no race."""

import subprocess
from pathlib import Path

import pytest

from m2f.modeling_m2f.kernels.cpu_compiler import find_compiler
from m2f.modeling_m2f.kernels.cpu_kernel import ENTRIES, SOURCE
from m2f.modeling_m2f.kernels.kernel_sources import read_source

FOLDER = Path(__file__).resolve().parent
KERNEL = FOLDER.parents[1] / "modeling_m2f" / "kernels" / "csrc" / SOURCE
HARNESS = FOLDER / "cpu_kernel_sanitized.cpp"
# Without casts of what is too large: in C++ that is undefined, and the kernel must not rely on it.
CHECKS = {"memory": "address,undefined,float-cast-overflow", "threads": "thread"}


def build(source: Path, folder: Path, checks: str, defines: dict[str, str | int]) -> Path:
    program = folder / "program"
    flags = ["-std=c++17", "-O1", "-g", "-pthread", f"-fsanitize={checks}", "-fno-sanitize-recover=all"]
    flags += [f'-DM2F_SOURCE="{KERNEL}"', *(f"-D{name}={value}" for name, value in defines.items())]
    result = subprocess.run(
        [*find_compiler(), *flags, str(source), "-o", str(program)], capture_output=True, text=True
    )
    if "cannot find" in result.stderr and "san" in result.stderr:
        pytest.skip("the compiler has no sanitizer libraries")
    assert result.returncode == 0, result.stderr
    return program


@pytest.mark.parametrize(
    "dtype, head_dim, levels, points", [("float", 32, 3, 4), ("bfloat16", 8, 4, 1), ("double", 24, 1, 8)]
)
@pytest.mark.parametrize("checks", CHECKS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_kernel_is_clean(entry, checks, dtype, head_dim, levels, points, tmp_path):
    defines = {"M2F_DTYPE": dtype, "M2F_HEAD_DIM": head_dim, "M2F_LEVELS": levels, "M2F_POINTS": points}
    program = build(HARNESS, tmp_path, CHECKS[checks], defines | {"M2F_ENTRY": ENTRIES.index(entry)})
    result = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize(
    "checks, wrong",
    [
        ("memory", ("i < count ? i : count - 1", "i")),  # lanes without a query read beyond the last one
        ("threads", ("unit % L == l ?", "unit >= 0 ?")),  # every unit adds to all levels
    ],
)
def test_sanitizer_sees_a_defect(checks, wrong, tmp_path, monkeypatch):
    source = read_source(SOURCE)
    assert wrong[0] in source
    broken = tmp_path / "broken.cpp"
    broken.write_text(source.replace(*wrong))
    monkeypatch.setattr(f"{__name__}.KERNEL", broken)
    defines = {"M2F_DTYPE": "float", "M2F_HEAD_DIM": 8, "M2F_LEVELS": 2, "M2F_POINTS": 1, "M2F_ENTRY": 1}
    program = build(HARNESS, tmp_path, CHECKS[checks], defines)
    # Several times, because a race shows only where both threads run at the same time.
    assert any(subprocess.run([program], capture_output=True, timeout=300).returncode for _ in range(30))
