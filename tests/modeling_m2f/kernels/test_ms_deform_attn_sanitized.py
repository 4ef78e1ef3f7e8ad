"""The C++ kernel under the compiler's sanitizers: no access outside its buffers, nothing undefined, no race."""

import subprocess

import pytest
from compiler_there import needs_compiler
from sanitizers import CHECKS, build

from m2f.modeling_m2f.kernels.kernel_sources import CSRC, read_source
from m2f.modeling_m2f.kernels.ms_deform_attn_cpu import ENTRIES, MS_DEFORM_ATTN

pytestmark = needs_compiler

HARNESS = "ms_deform_attn_sanitized.cpp"


def flags(dtype: str, head_dim: int, levels: int, points: int, entry: int) -> list[str]:
    sizes = {"DTYPE": dtype, "HEAD_DIM": head_dim, "LEVELS": levels, "POINTS": points, "ENTRY": entry}
    return [f"-DM2F_{name}={size}" for name, size in sizes.items()]


@pytest.mark.parametrize(
    "dtype, head_dim, levels, points", [("float", 32, 3, 4), ("bfloat16", 8, 4, 1), ("double", 24, 1, 8)]
)
@pytest.mark.parametrize("checks", CHECKS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_kernel_is_clean(entry, checks, dtype, head_dim, levels, points, tmp_path):
    sizes = flags(dtype, head_dim, levels, points, ENTRIES.index(entry))
    program = build(HARNESS, CSRC / MS_DEFORM_ATTN.file, tmp_path, checks, *sizes)
    result = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize(
    "checks, wrong",
    [
        ("memory", ("i < count ? i : count - 1", "i")),  # lanes without a query read beyond the last one
        ("threads", ("unit % L == l ?", "unit >= 0 ?")),  # every unit adds to all levels
    ],
)
def test_sanitizer_sees_a_defect(checks, wrong, tmp_path):
    source = read_source(MS_DEFORM_ATTN.file)
    assert wrong[0] in source
    broken = tmp_path / "broken.cpp"
    broken.write_text(source.replace(*wrong))
    program = build(HARNESS, broken, tmp_path, checks, *flags("float", 8, 2, 1, 1))
    # Several times, because a race shows only where both threads run at the same time.
    assert any(subprocess.run([program], capture_output=True, timeout=300).returncode for _ in range(30))
