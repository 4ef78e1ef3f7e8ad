"""Kernels built with a harness of C++ under the compiler's sanitizers."""

import subprocess
from pathlib import Path

import pytest

from m2f.modeling_m2f.kernels.cpu_compiler import find_compiler

# Without casts of what is too large: in C++ that is undefined, and the kernels must not rely on it.
CHECKS = {"memory": "address,undefined,float-cast-overflow", "threads": "thread"}


def build(harness: str, kernel: Path, folder: Path, checks: str, *flags: str) -> Path:
    """The program of a harness beside this file that includes `kernel`, written to `folder`; the test is skipped where
    the compiler has no sanitizers."""
    program = folder / "program"
    usual = ["-std=c++17", "-O1", "-g", "-pthread", f"-fsanitize={CHECKS[checks]}", "-fno-sanitize-recover=all"]
    files = [f'-DM2F_SOURCE="{kernel}"', Path(__file__).with_name(harness), "-o", program]
    result = subprocess.run([*find_compiler(), *usual, *flags, *files], capture_output=True, text=True)
    if "cannot find" in result.stderr and "san" in result.stderr:
        pytest.skip("the compiler has no sanitizer libraries")
    assert result.returncode == 0, result.stderr
    return program
