"""The C++ kernels that inference alone has, under the compiler's sanitizers: no access outside buffers, no race."""

import subprocess
from pathlib import Path

import pytest
from test_cpu_kernel_sanitized import CHECKS

from m2f.modeling_m2f.kernels.cpu_compiler import _native_flag, find_compiler
from m2f.modeling_m2f.kernels.group_norm import SOURCE as GROUP_NORM
from m2f.modeling_m2f.kernels.kernel_sources import read_source
from m2f.modeling_m2f.kernels.masked_attention import SOURCE as ATTENTION
from m2f.modeling_m2f.kernels.winograd_tiles import SOURCE as WINOGRAD

HARNESS = Path(__file__).with_name("inference_kernels_sanitized.cpp")
SOURCES = [ATTENTION, WINOGRAD, GROUP_NORM]


def failure(source: str, text: str, folder: Path, checks: str) -> str:
    """What the sanitizer says; empty where all is well."""
    file, program = folder / "kernel.cpp", folder / "program"
    file.write_text(text)
    flags = ["-std=c++17", "-O1", "-g", "-pthread", _native_flag(), f"-fsanitize={CHECKS[checks]}"]
    flags += ["-fno-sanitize-recover=all", f'-DM2F_SOURCE="{file}"', f"-DM2F_KERNEL={SOURCES.index(source)}"]
    flags += ["-DM2F_DTYPE=float", "-DM2F_HEAD_DIM=20"]
    result = subprocess.run([*find_compiler(), *flags, HARNESS, "-o", program], capture_output=True, text=True)
    if "cannot find" in result.stderr and "san" in result.stderr:
        pytest.skip("the compiler has no sanitizer libraries")
    assert result.returncode == 0, result.stderr
    for _ in range(3):  # a race shows only where both threads run at the same time
        result = subprocess.run([program], capture_output=True, text=True, timeout=300)
        if result.returncode:
            return result.stderr[-3000:]
    return ""


@pytest.mark.parametrize("checks", CHECKS)
@pytest.mark.parametrize("source", SOURCES)
def test_kernels_are_clean(source, checks, tmp_path):
    assert not failure(source, read_source(source), tmp_path, checks)


@pytest.mark.parametrize(
    ("checks", "source", "wrong"),
    [
        # the last block as if it were full; a cell after the last column; a row below the last
        ("memory", ATTENTION, ("std::min(N, in.cells - start)", "N")),
        ("memory", WINOGRAD, ("left + j < part.width; ++j", "j < OUT; ++j")),
        ("memory", GROUP_NORM, ("in_parallel(in.map.height,", "in_parallel(in.map.height + 1,")),
        # every thread's sums in one place
        ("threads", GROUP_NORM, ("sums.data() + y * in.groups * 2);", "sums.data());")),
    ],
)
def test_sanitizer_sees_a_defect(checks, source, wrong, tmp_path):
    text = read_source(source)
    assert wrong[0] in text
    assert failure(source, text.replace(*wrong), tmp_path, checks)
