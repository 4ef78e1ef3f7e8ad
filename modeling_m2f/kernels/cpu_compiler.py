"""C++ sources to loaded libraries, by the compiler that the machine has."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import threading
from pathlib import Path

from m2f.modeling_m2f.kernels.kernel_cache import cached_file
from m2f.modeling_m2f.kernels.kernel_policy import KernelUnavailableError

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


_libraries: dict[tuple, ctypes.CDLL] = {}
_lock = threading.Lock()


def _renew_lock():
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    # A fork while another thread compiles would leave the child's lock closed for ever.
    os.register_at_fork(after_in_child=_renew_lock)


def load_library(source: str, defines: dict[str, str | int]) -> ctypes.CDLL:
    """The library that `source` compiles to with `defines`; compiled at most once per process, machine and content.

    Raises:
        KernelUnavailableError: no compiler, an error of the compiler, or a library that cannot be loaded.
    """
    key = (source, *sorted(defines.items()))
    with _lock:
        if key not in _libraries:
            _libraries[key] = _load(source, defines)
        return _libraries[key]


def _load(source: str, defines: dict[str, str | int]) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(_library_file(source, defines)))
    except OSError as error:
        raise KernelUnavailableError(f"the compiled kernel cannot be stored or loaded: {error}") from error


def _library_file(source: str, defines: dict[str, str | int]) -> Path:
    """Where a library comes from: the cache, and before that the compiler."""
    compiler = find_compiler()
    flags = [*FLAGS, _native_flag(), *(f"-D{name}={value}" for name, value in sorted(defines.items()))]
    return cached_file(_identity(source, compiler, flags), ".so", lambda to: _compile(compiler, flags, source, to))


def find_compiler() -> list[str]:
    """The command of the C++ compiler: $CXX, or the first of c++, g++, clang++ on the path."""
    wanted = shlex.split(os.environ.get("CXX", ""))
    for command in [wanted] if wanted else [[name] for name in COMPILERS]:
        path = shutil.which(command[0])
        if path:
            return [path, *command[1:]]
    raise KernelUnavailableError(
        f"no C++ compiler: {shlex.join(wanted) if wanted else ', '.join(COMPILERS)} not found. Install one (Debian: "
        "apt install g++; macOS: xcode-select --install) or name it in CXX"
    )


def _native_flag() -> str:
    return "-march=native" if platform.machine().lower() in ("x86_64", "amd64", "i686") else "-mcpu=native"


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
    command = [*compiler, *flags, str(source_file), "-o", str(to)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelUnavailableError(f"{shlex.join(compiler)} cannot be run: {error}") from error
    if result.returncode:
        raise KernelUnavailableError(f"{shlex.join(compiler)} failed ({result.returncode}): {result.stderr[-2000:]}")
