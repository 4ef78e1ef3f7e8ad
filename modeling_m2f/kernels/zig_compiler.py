"""Kernels compiled by zig, which is clang with all targets in one package of PyPI: `ziglang`."""

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

# Without C++'s library (cpu_common.h has the little that is then missing), because zig would build it for each target,
# which takes a minute, and put it into each kernel: 230 kB in place of 20. Nothing is exported but what the source
# says, and no path or time gets into the file.
_WITHOUT_LIBRARY = (
    "-DM2F_WITHOUT_LIBRARY",
    "-fno-exceptions",
    "-fno-rtti",
    "-fvisibility=hidden",
    "-fvisibility-global-new-delete=force-hidden",
    "-g0",
    "-w",
)


def find_zig() -> list[str]:
    """The command of the package `ziglang`, which is not imported; empty where it is not installed."""
    spec = importlib.util.find_spec("ziglang")
    folders = spec.submodule_search_locations if spec else None
    names = ("zig.exe" if sys.platform == "win32" else "zig",)
    found = [Path(folder) / name for folder in folders or () for name in names if (Path(folder) / name).is_file()]
    return [str(found[0]), "c++"] if found else []


def is_zig(compiler: list[str]) -> bool:
    return Path(compiler[0]).stem == "zig" and compiler[1:2] == ["c++"]


def zig_commands(compiler: list[str], target: list[str], flags: list[str], source: Path, to: Path) -> list[list[str]]:
    """The two commands that make the library `to` from `source`: to link it as C keeps C++'s library out.

    Args:
        compiler: of `find_zig`.
        target: its flags, such as `-mcpu=native`.
        flags: those of every compiler, and the definitions.
    """
    compiled = to.with_suffix(".o")
    no_link = [flag for flag in flags if flag != "-shared"]
    compile_ = [*compiler, *target, *no_link, *_WITHOUT_LIBRARY, "-c", str(source), "-o", str(compiled)]
    link = [compiler[0], "cc", *target, "-shared", "-s", "-pthread", str(compiled), "-o", str(to)]
    if to.suffix == ".dylib":
        link += ["-install_name", f"@rpath/{to.name}"]  # in place of the path where it was made
    return [compile_, link]


def run_commands(commands: list[list[str]], timeout: float, environment: dict[str, str]) -> str | None:
    """What went wrong, in words; None where nothing did."""
    for command in commands:
        words = {"capture_output": True, "text": True, "timeout": timeout, "check": False}
        try:
            result = subprocess.run(command, env=environment, **words)  # type: ignore[call-overload]
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{shlex.join(command[:1])} cannot be run: {error}"
        if result.returncode:
            return f"{shlex.join(command[:2])} failed ({result.returncode}): {result.stderr[-2000:]}"
    return None
