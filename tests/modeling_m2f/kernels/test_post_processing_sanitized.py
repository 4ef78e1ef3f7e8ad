"""The C++ kernels of post-processing under the compiler's sanitizers: no access outside buffers, no race."""

import subprocess
from pathlib import Path

import pytest
from compiler_there import needs_compiler
from sanitizers import CHECKS, build

from m2f.modeling_m2f.kernels.cpu_compiler import _native_flag, find_compiler
from m2f.modeling_m2f.kernels.kernel_sources import read_source
from m2f.modeling_m2f.kernels.resized_masks import RESIZED_MASKS, axis_tables
from m2f.modeling_m2f.kernels.semantic_votes import SEMANTIC_VOTES

pytestmark = needs_compiler

MASKS, VOTES = RESIZED_MASKS.file, SEMANTIC_VOTES.file
# Logits; padded, valid and target size; and the size that the target is resized to once more.
CASES = [
    ((20, 40), (80, 160), (77, 133), (54, 80), (90, 33)),
    ((3, 70), (12, 280), (9, 279), (31, 65), (65, 31)),
    ((1, 2), (4, 8), (3, 8), (33, 2), (1, 1)),
    ((16, 17), (64, 68), (64, 68), (64, 68), (3, 200)),
    ((20, 25), (80, 100), (80, 100), (80, 100), (30, 30)),
]


def write_case(case: tuple, path: Path):
    source, padded, valid, target, last = case
    tables = axis_tables(source, padded, valid, target) + axis_tables(target, target, target, last)
    with path.open("w") as file:
        print(9, *source, *target, *last, file=file)
        for table in tables:
            print(table.cells.numel(), *table.cells.flatten().tolist(), *table.weights.flatten().tolist(), file=file)


def program_of(text: str, folder: Path, checks: str, votes: bool) -> Path:
    source = folder / "kernel.cpp"
    source.write_text(text)
    flags = [_native_flag(find_compiler()), *(["-DM2F_VOTES"] if votes else [])]
    return build("post_processing_sanitized.cpp", source, folder, checks, *flags)


def fails(program: Path, case: tuple) -> str:
    """What the sanitizer says; empty where all is well."""
    write_case(case, program.parent / "case.txt")
    result = subprocess.run([program, program.parent / "case.txt"], capture_output=True, text=True, timeout=300)
    return result.stderr[-3000:] if result.returncode else ""


@pytest.mark.parametrize("checks", CHECKS)
@pytest.mark.parametrize("source", [MASKS, VOTES])
def test_kernels_are_clean(source, checks, tmp_path):
    program = program_of(read_source(source), tmp_path, checks, source == VOTES)
    for case in CASES:
        assert not fails(program, case)


@pytest.mark.parametrize(
    ("checks", "source", "wrong"),
    [
        # a register beyond the end of the last row; a region of scores that a tile does not fit into; no lock
        ("memory", MASKS, ("from.column + from.width - LANES)", "from.column + from.width)")),
        ("memory", VOTES, ("REGION - TAPS - 1) * axis.target", "9 * REGION) * axis.target")),
        ("threads", MASKS, ("pthread_mutex_lock(&lock);", "")),
    ],
)
def test_sanitizer_sees_a_defect(checks, source, wrong, tmp_path):
    text = read_source(source)
    assert wrong[0] in text
    program = program_of(text.replace(*wrong), tmp_path, checks, source == VOTES)
    # Several times, because a race shows only where both threads run at the same time.
    assert any(fails(program, case) for _ in range(10) for case in CASES)
