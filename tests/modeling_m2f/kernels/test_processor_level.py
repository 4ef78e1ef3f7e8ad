"""Levels of x86-64 as its psABI supplement defines them, from what PyTorch says of the processor."""

import pytest
import torch

from m2f.modeling_m2f.kernels.processor_level import machine_target, processor_levels

V2 = ("ssse3", "sse4_1", "sse4_2", "popcnt")
V3 = (*V2, "avx2", "bmi", "bmi2", "f16c", "fma3", "lzcnt")
V4 = (*V3, "avx512_f", "avx512_bw", "avx512_cd", "avx512_dq", "avx512_vl")


def machine(monkeypatch, capability: str, instructions: tuple[str, ...] | None):
    monkeypatch.setattr("m2f.modeling_m2f.kernels.processor_level.machine_target", lambda: "linux-x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    if instructions is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        found = dict.fromkeys(V4, False) | dict.fromkeys(instructions, True)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)


@pytest.mark.parametrize(
    ("capability", "instructions", "numbers"),
    [
        ("AVX512", V4, "432"),
        ("AVX512", V4[:-1], "32"),  # as Knights Landing: no shorter vectors
        ("AVX2", V4, "32"),  # a lesser processor is played, or the system keeps no AVX-512 registers
        ("AVX2", V3, "32"),
        ("AVX2", tuple(name for name in V3 if name != "bmi2"), "2"),
        ("DEFAULT", V4, "2"),
        ("DEFAULT", V2, "2"),
        ("DEFAULT", V2[:2], ""),  # of 2007
        ("AVX512", None, "432"),
        ("AVX2", None, "32"),
        ("another", V4, ""),
    ],
)
def test_levels_of_x86(monkeypatch, capability, instructions, numbers):
    machine(monkeypatch, capability, instructions)
    assert processor_levels() == tuple(f"x86-64-v{number}" for number in numbers)


def test_other_processors_have_one_level(monkeypatch):
    monkeypatch.setattr("m2f.modeling_m2f.kernels.processor_level.machine_target", lambda: "macos-aarch64")
    assert processor_levels() == ("baseline",)


@pytest.mark.parametrize(
    ("system", "machine", "libc", "expected"),
    [
        ("linux", "x86_64", "glibc", "linux-x86_64"),
        ("linux", "aarch64", "glibc", "linux-aarch64"),
        ("linux", "x86_64", "", "linux without glibc-x86_64"),
        ("darwin", "arm64", "", "macos-aarch64"),
        ("win32", "AMD64", "", "windows-x86_64"),
    ],
)
def test_names_of_targets(monkeypatch, system, machine, libc, expected):
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("platform.libc_ver", lambda: (libc, "2.36"))
    assert machine_target() == expected
