"""Compiles CUDA C++ with NVRTC and launches it through the driver, by ctypes: no CUDA toolkit, no compiler, no shell.

PyTorch's CUDA wheels bring NVRTC along (`nvidia/cu13/lib`, `nvidia/cuda_nvrtc/lib`); libcuda comes with the GPU's
driver. Compiling needs neither a GPU nor a driver. Sources: the manuals of NVRTC and of the CUDA driver API,
release 12.1 and later.
"""

import ctypes
import functools
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

RELAXED_CAPTURE = 2  # CU_STREAM_CAPTURE_MODE_RELAXED


class NvrtcError(RuntimeError):
    """NVRTC or the driver refused; the message holds its own words."""


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


@functools.cache
def driver() -> ctypes.CDLL:
    """The CUDA driver's library.

    Raises:
        NvrtcError: there is none.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise NvrtcError(f"{name} does not load ({error}); is the GPU's driver installed?") from error
    library.cuLaunchKernel.argtypes = [ctypes.c_void_p, *[ctypes.c_uint] * 7, *[ctypes.c_void_p] * 3]
    return library


def _driver_check(code: int, what: str) -> None:
    if code:
        text = ctypes.c_char_p()
        driver().cuGetErrorString(code, ctypes.byref(text))
        raise NvrtcError(f"{what}: CUDA error {code}, {(text.value or b'unknown').decode()}.")


def architecture(device: int) -> str:
    """What to compile for so that it runs on CUDA device number `device`, such as "sm_90".

    Raises:
        NvrtcError: this NVRTC knows nothing that the device runs.
    """
    major, minor = torch.cuda.get_device_capability(device)
    # Machine code also runs on later minor releases of the same major one.
    fit = [arch for arch in supported_architectures() if 10 * major <= arch <= 10 * major + minor]
    if not fit:
        raise NvrtcError(
            f"NVRTC compiles for {supported_architectures()}, not for compute capability {major}.{minor}."
        )
    return f"sm_{fit[-1]}"


def _make_context_current(device: int) -> None:
    # A thread that has not called CUDA's runtime yet, as autograd's may be, has none for the driver's interface.
    context = ctypes.c_void_p()
    _driver_check(driver().cuCtxGetCurrent(ctypes.byref(context)), "cuCtxGetCurrent")
    if context.value:
        return
    # CUDA's runtime numbers devices as the driver does, CUDA_VISIBLE_DEVICES included.
    handle = ctypes.c_int()
    _driver_check(driver().cuDeviceGet(ctypes.byref(handle), device), "cuDeviceGet")
    _driver_check(driver().cuDevicePrimaryCtxRetain(ctypes.byref(context), handle), "cuDevicePrimaryCtxRetain")
    _driver_check(driver().cuCtxSetCurrent(context), "cuCtxSetCurrent")


def _load(cubin: bytes, name: str) -> ctypes.c_void_p:
    """The function `name` of a module loaded into the current context, for as long as the process lives."""
    module, function, mode = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int(RELAXED_CAPTURE)
    # Loading may wait for the device, which a stream's capture into a CUDA graph forbids unless the mode is relaxed.
    _driver_check(driver().cuThreadExchangeStreamCaptureMode(ctypes.byref(mode)), "cuThreadExchangeStreamCaptureMode")
    try:
        _driver_check(driver().cuModuleLoadData(ctypes.byref(module), cubin), "cuModuleLoadData")
        _driver_check(driver().cuModuleGetFunction(ctypes.byref(function), module, name.encode()), name)
    finally:
        driver().cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
    return function


_functions: dict[tuple, ctypes.c_void_p] = {}
_cubins: dict[tuple, bytes] = {}
_lock = threading.Lock()


def _function(source: str, name: str, defines: tuple[tuple[str, str], ...], device: int) -> ctypes.c_void_p:
    loaded = (source, name, defines, device)
    if loaded in _functions:
        return _functions[loaded]
    with _lock:
        if loaded not in _functions:
            compiled = (source, defines, architecture(device))
            if compiled not in _cubins:
                _cubins[compiled] = compile_cubin(source, dict(defines), compiled[-1])
            _functions[loaded] = _load(_cubins[compiled], name)
        return _functions[loaded]


def launch(
    source: str,
    name: str,
    defines: tuple[tuple[str, str], ...],
    grid: tuple[int, int],
    threads: int,
    arguments: list,
    device: torch.device,
) -> None:
    """Runs entry point `name` of `source` on the current stream of the CUDA device `device`.

    Compiled once a process for an architecture, loaded once a device.

    Args:
        source: CUDA C++ text.
        name: an `extern "C"` kernel.
        defines: macros and their values, in a fixed order.
        grid: blocks in x and y.
        threads: of a block.
        arguments: ctypes values, in the order of the kernel's parameters.
        device: the one that holds what the arguments point to, with its index.

    Raises:
        NvrtcError: it does not compile, load or launch.
    """
    with torch.cuda.device(device):
        _make_context_current(device.index)
        function = _function(source, name, defines, device.index)
        addresses = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
        stream = torch.cuda.current_stream(device).cuda_stream
        code = driver().cuLaunchKernel(function, *grid, 1, threads, 1, 1, 0, stream, addresses, None)
        _driver_check(code, f"Launching {name} with grid {grid}")
