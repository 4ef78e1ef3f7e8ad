"""Compiles CUDA C++ with NVRTC, by ctypes: no CUDA toolkit, no compiler, no shell, no GPU and no driver.

PyTorch's CUDA wheels bring NVRTC along (`nvidia/cu13/lib`, `nvidia/cuda_nvrtc/lib`). Source: NVRTC's manual, release
12.1 and later.
"""

import ctypes
import functools
import hashlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from m2f.modeling_m2f.kernels.kernel_cache import cached_file


class NvrtcError(RuntimeError):
    """NVRTC or the GPU's driver refused; the message holds its own words."""


def library_folders() -> Iterator[Path]:
    """Folders that may hold NVRTC, PyTorch's own wheels first."""
    spec = importlib.util.find_spec("nvidia")
    for root in spec.submodule_search_locations or () if spec else ():
        yield from sorted(Path(root).glob("cu[0-9]*/lib"), reverse=True)
        yield Path(root) / "cuda_nvrtc" / "lib"
    yield Path(torch.__file__).parent / "lib"
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(name):
            yield Path(os.environ[name]) / "lib64"


def _major() -> str:
    return torch.version.cuda.split(".")[0] if torch.version.cuda else ""


@functools.cache
def nvrtc() -> ctypes.CDLL:
    """The NVRTC of PyTorch's CUDA release; with a PyTorch without CUDA, any that is installed.

    Raises:
        NvrtcError: there is none.
    """
    soname = f"libnvrtc.so.{_major() or '[0-9]*'}"
    for folder in library_folders():
        for library in sorted(folder.glob(soname), reverse=True):
            # First, and by its full path: NVRTC asks for it by its bare name, which no search path need know.
            for builtins in folder.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins))
            return ctypes.CDLL(str(library))
    try:
        return ctypes.CDLL(f"libnvrtc.so.{_major() or '13'}")
    except OSError as error:
        folders = ", ".join(map(str, library_folders()))
        raise NvrtcError(
            f"No {soname} in {folders} and none known to the system ({error}); "
            "install the nvidia-cuda-nvrtc wheel of PyTorch's CUDA release."
        ) from error


def _nvrtc_check(code: int, what: str, log: str = "") -> None:
    if code:
        library = nvrtc()
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        reason = library.nvrtcGetErrorString(code).decode()
        raise NvrtcError(f"{what}: {reason}." + (f" NVRTC's log:\n{log}" if log else ""))


@functools.cache
def supported_architectures() -> tuple[int, ...]:
    """Compute capabilities that this NVRTC compiles for, as 10 * major + minor, ascending."""
    count = ctypes.c_int()
    _nvrtc_check(nvrtc().nvrtcGetNumSupportedArchs(ctypes.byref(count)), "nvrtcGetNumSupportedArchs")
    found = (ctypes.c_int * count.value)()
    _nvrtc_check(nvrtc().nvrtcGetSupportedArchs(found), "nvrtcGetSupportedArchs")
    return tuple(sorted(found))


def _read(program: ctypes.c_void_p, what: str) -> bytes:
    """A result of a compilation: what is "CUBIN", "PTX" or "ProgramLog"."""
    size = ctypes.c_size_t()
    _nvrtc_check(getattr(nvrtc(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)), f"nvrtcGet{what}Size")
    text = ctypes.create_string_buffer(size.value)
    _nvrtc_check(getattr(nvrtc(), f"nvrtcGet{what}")(program, text), f"nvrtcGet{what}")
    return text.raw


def compile_cubin(source: str, defines: dict[str, str], arch: str) -> bytes:
    """Machine code of CUDA C++ `source`; its entry points have to be `extern "C"`.

    Defines instead of NVRTC's name expressions: one text serves a CPU's compiler too (`-D`), and names stay plain.

    Args:
        source: the text of one file; it may include no file.
        defines: macros and their values.
        arch: such as "sm_90".

    Raises:
        NvrtcError: it does not compile; the message holds NVRTC's log.
    """
    return compile_program(source, defines, arch)[0]


def compile_program(
    source: str, defines: dict[str, str], arch: str, options: tuple[str, ...] = (), kind: str = "CUBIN"
) -> tuple[bytes, str]:
    """`compile_cubin` with NVRTC's log and further options for it; `kind` "PTX" needs an `arch` like "compute_90"."""
    program = ctypes.c_void_p()
    arguments = (source.encode(), b"m2f.cu", 0, None, None)
    _nvrtc_check(nvrtc().nvrtcCreateProgram(ctypes.byref(program), *arguments), "nvrtcCreateProgram")
    flags = [f"--gpu-architecture={arch}", "--std=c++17", *(f"-D{k}={v}" for k, v in defines.items()), *options]
    try:
        array = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
        code = nvrtc().nvrtcCompileProgram(program, len(flags), array)
        log = _read(program, "ProgramLog").rstrip(b"\0\n").decode(errors="replace")
        _nvrtc_check(code, f"Compiling with {' '.join(flags)}", log)
        return _read(program, kind), log
    finally:
        nvrtc().nvrtcDestroyProgram(ctypes.byref(program))


def nvrtc_version() -> str:
    """Such as "13.0".

    Raises:
        NvrtcError: there is no NVRTC.
    """
    major, minor = ctypes.c_int(), ctypes.c_int()
    _nvrtc_check(nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
    return f"{major.value}.{minor.value}"


def _identity(source: str, defines: tuple[tuple[str, str], ...], arch: str) -> str:
    """Everything that a compilation depends on. Patch releases have one version, but not one size."""
    library = Path(nvrtc()._name)
    size = library.stat().st_size if library.is_absolute() else 0
    parts = [source, *(f"{name}={value}" for name, value in defines), arch, nvrtc_version(), str(library), str(size)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@functools.cache
def cached_cubin(source: str, defines: tuple[tuple[str, str], ...], arch: str) -> bytes:
    """`compile_cubin`, once a machine: kept in the folder of the CPU's kernels.

    Raises:
        NvrtcError: as `compile_cubin`.
    """

    def make(path: Path):
        path.write_bytes(compile_cubin(source, dict(defines), arch))

    try:
        return cached_file(_identity(source, defines, arch), ".cubin", make).read_bytes()
    except OSError:  # such as a full disk; a GPU takes it from memory anyway
        return compile_cubin(source, dict(defines), arch)
