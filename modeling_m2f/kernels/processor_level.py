"""For which machines kernels are built ahead, and which of them this one is."""

import platform
import sys

import torch

# What each level of x86 processors has (x86-64 psABI), under PyTorch's names. It cannot be asked for the rest of a
# level (movbe, cx16), which no processor with these lacks.
_NEEDS = {
    "x86-64-v4": ("avx512_f", "avx512_bw", "avx512_cd", "avx512_dq", "avx512_vl"),
    "x86-64-v3": ("avx2", "bmi", "bmi2", "f16c", "fma3", "lzcnt"),
    "x86-64-v2": ("ssse3", "sse4_1", "sse4_2", "popcnt"),
}
# The best level for each answer of `get_cpu_capability`. It knows the operating system's part, and the variable
# ATEN_CPU_CAPABILITY, by which a processor is taken for a lesser one.
_BEST = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3", "DEFAULT": "x86-64-v2"}
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def machine_target() -> str:
    """Such as linux-x86_64, macos-aarch64, windows-x86_64; linux is that of the GNU C library."""
    machine = platform.machine().lower()
    system = {"darwin": "macos", "win32": "windows"}.get(sys.platform, sys.platform)
    if system == "linux" and platform.libc_ver()[0] != "glibc":
        system = "linux without glibc"
    return f"{system}-{_MACHINES.get(machine, machine)}"


def processor_levels() -> tuple[str, ...]:
    """Levels of libraries that this processor and its operating system run, the best first."""
    if not machine_target().endswith("-x86_64"):
        return ("baseline",)
    levels = tuple(_NEEDS)
    best = _BEST.get(torch.backends.cpu.get_cpu_capability())
    return tuple(level for level in levels[levels.index(best) :] if _has(level)) if best else ()


def _has(level: str) -> bool:
    if not hasattr(torch.cpu, "get_capabilities"):
        # Versions before 2.12: their AVX512 and AVX2 are levels 4 and 3 on all processors that are sold.
        return True
    has = torch.cpu.get_capabilities()
    return all(has.get(name, False) for names in _below(level) for name in names)


def _below(level: str) -> list[tuple[str, ...]]:
    """What the level needs, and those below it."""
    return list(_NEEDS.values())[list(_NEEDS).index(level) :]
