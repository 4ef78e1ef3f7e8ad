"""C++ sources to loaded libraries: built ahead, from the cache, or by the compiler that the machine has."""

import ctypes
import hashlib
import os
import platform
import reprlib
import shlex
import shutil
import threading
from pathlib import Path
from typing import NamedTuple

from m2f.modeling_m2f.kernels.built_kernels import Definitions, find_built
from m2f.modeling_m2f.kernels.kernel_cache import cache_folder, cached_file
from m2f.modeling_m2f.kernels.kernel_policy import KernelUnavailableError, wants_native
from m2f.modeling_m2f.kernels.zig_compiler import find_zig, is_zig, run_commands, zig_commands

COMPILERS = ("c++", "g++", "clang++")
# No fast-math: NaN must stay NaN. What is left lets sums be vectorised and products fused.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-shared",
    "-fPIC",
    "-pthread",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fassociative-math",
    "-ffp-contract=fast",
)
TIMEOUT_SECONDS = 120


class KernelLibrary(NamedTuple):
    """A loaded library, where it comes from, and why others were passed over, in words."""

    functions: ctypes.CDLL
    origin: str
    reasons: list[str]


_libraries: dict[tuple, KernelLibrary] = {}
_lock = threading.Lock()


def _renew_lock():
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    # A fork while another thread compiles would leave the child's lock closed for ever.
    os.register_at_fork(after_in_child=_renew_lock)


def load_library(source: str, defines: Definitions) -> KernelLibrary:
    """The library of `source` with `defines`: one built ahead, else one compiled for this very processor, at most once
    per process, machine and content. With M2F_KERNELS=native none that was built ahead.

    Raises:
        KernelUnavailableError: none was built ahead, and there is no compiler, an error of the compiler, or a library
            that cannot be loaded.
    """
    native = wants_native()
    key = (source, native, *sorted(defines.items()))
    with _lock:
        if key not in _libraries:
            _libraries[key] = _compiled(source, defines, []) if native else _load(source, defines)
        return _libraries[key]


def _load(source: str, defines: Definitions) -> KernelLibrary:
    built = find_built(source, defines)
    if built.library is not None:
        return KernelLibrary(built.library, f"built ahead ({built.level})", built.reasons)
    return _compiled(source, defines, built.reasons)


def _compiled(source: str, defines: Definitions, reasons: list[str]) -> KernelLibrary:
    try:
        return KernelLibrary(ctypes.CDLL(str(_library_file(source, defines))), "compiled", reasons)
    except OSError as error:
        reason = f"the compiled kernel cannot be stored or loaded: {error}"
        raise KernelUnavailableError("; ".join([*reasons, reason])) from error
    except KernelUnavailableError as error:
        raise KernelUnavailableError("; ".join([*reasons, str(error)])) from error


def _library_file(source: str, defines: Definitions) -> Path:
    """Where a compiled library comes from: the cache, and before that the compiler."""
    compiler = find_compiler()
    flags = [*FLAGS, *(f"-D{name}={value}" for name, value in sorted(defines.items()))]
    identity = _identity(source, compiler, [_native_flag(compiler), *flags])
    return cached_file(identity, ".so", lambda to: _compile(compiler, flags, source, to))


def find_compiler() -> list[str]:
    """The command of the C++ compiler: $CXX, or the first of c++, g++, clang++ on the path, or the package ziglang."""
    named = os.environ.get("CXX", "")
    try:
        wanted = shlex.split(named)
    except ValueError as error:
        raise KernelUnavailableError(f"CXX is {reprlib.repr(named)}, which is no command: {error}") from error
    for command in [wanted] if wanted else [[name] for name in COMPILERS]:
        path = shutil.which(command[0])
        if path:
            return [path, *command[1:]]
    if not wanted and (zig := find_zig()):
        return zig
    raise KernelUnavailableError(
        f"no C++ compiler: {shlex.join(wanted) if wanted else ', '.join(COMPILERS)} not found. "
        'pip install "m2f[compiler]" brings one; or install the system\'s (Debian: apt install g++; macOS: '
        "xcode-select --install), or name one in CXX"
    )


def _native_flag(compiler: list[str]) -> str:
    is_x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    return "-march=native" if is_x86 and not is_zig(compiler) else "-mcpu=native"


def _identity(source: str, compiler: list[str], flags: list[str]) -> str:
    """Everything that the result depends on. The compiler is told by its file, which is quicker than asking it."""
    status = Path(compiler[0]).resolve().stat()
    parts = [source, *compiler, *flags, str(status.st_size), str(status.st_mtime_ns), _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _processor() -> str:
    """What `native` means; a home folder may serve machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    wanted = ("flags", "Features", "model name", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _compile(compiler: list[str], flags: list[str], source: str, to: Path):
    source_file = to.with_suffix(".cpp")
    source_file.write_text(source, encoding="utf-8")
    native = _native_flag(compiler)
    environment = dict(os.environ)
    if is_zig(compiler):
        commands = zig_commands(compiler, [native], flags, source_file, to)
        # What it keeps of the C library, beside the kernels: the home folder may be read-only.
        environment.setdefault("ZIG_GLOBAL_CACHE_DIR", str(cache_folder() / "zig"))
        environment.setdefault("ZIG_LOCAL_CACHE_DIR", environment["ZIG_GLOBAL_CACHE_DIR"])
    else:
        commands = [[*compiler, native, *flags, str(source_file), "-o", str(to)]]
    reason = run_commands(commands, TIMEOUT_SECONDS, environment)
    if reason:
        raise KernelUnavailableError(reason)
