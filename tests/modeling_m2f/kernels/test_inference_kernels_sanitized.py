"""The C++ kernels that inference alone has, under the compiler's sanitizers: no access outside buffers, no race."""

import subprocess
from pathlib import Path

import pytest
from compiler_there import needs_compiler
from sanitizers import CHECKS, build

from m2f.modeling_m2f.kernels.cpu_compiler import _native_flag, find_compiler
from m2f.modeling_m2f.kernels.group_norm import GROUP_NORM
from m2f.modeling_m2f.kernels.kernel_sources import read_source
from m2f.modeling_m2f.kernels.masked_attention import MASKED_ATTENTION
from m2f.modeling_m2f.kernels.winograd import WINOGRAD

pytestmark = needs_compiler

ATTENTION, TILES, NORM = SOURCES = [source.file for source in (MASKED_ATTENTION, WINOGRAD, GROUP_NORM)]


def failure(source: str, text: str, folder: Path, checks: str) -> str:
    """What the sanitizer says; empty where all is well."""
    file = folder / "kernel.cpp"
    file.write_text(text)
    flags = [
        _native_flag(find_compiler()),
        f"-DM2F_KERNEL={SOURCES.index(source)}",
        "-DM2F_DTYPE=float",
        "-DM2F_HEAD_DIM=20",
    ]
    program = build("inference_kernels_sanitized.cpp", file, folder, checks, *flags)
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
        ("memory", TILES, ("left + j < part.width; ++j", "j < OUT; ++j")),
        ("memory", NORM, ("in_parallel(in.map.height,", "in_parallel(in.map.height + 1,")),
        # every thread's sums in one place
        ("threads", NORM, ("sums.data() + y * in.groups * 2);", "sums.data());")),
    ],
)
def test_sanitizer_sees_a_defect(checks, source, wrong, tmp_path):
    text = read_source(source)
    assert wrong[0] in text
    assert failure(source, text.replace(*wrong), tmp_path, checks)
