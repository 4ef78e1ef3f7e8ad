"""Loads compiled CUDA code and launches it through the GPU's driver, by ctypes.

Source: the manual of the CUDA driver API, release 12.1 and later. libcuda comes with the driver.
"""

import ctypes
import functools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from m2f.modeling_m2f.kernels.nvrtc import NvrtcError, cached_cubin, supported_architectures

RELAXED_CAPTURE = 2  # CU_STREAM_CAPTURE_MODE_RELAXED


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


def unavailable_reason(device: torch.device) -> str | None:
    """Why nothing can be compiled for and launched on `device`, or None. Loads libraries once, compiles nothing."""
    if device.type != "cuda":
        return f"{device} is no CUDA device"
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    return _unavailable_reason(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _unavailable_reason(index: int) -> str | None:
    try:
        driver()
        architecture(index)
    except NvrtcError as error:
        return str(error)
    return None


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


def compile_ahead(source: str, variants: list[tuple[tuple[str, str], ...]], device: torch.device) -> None:
    """Compiles `source` with several defines at once, on several processors, for `launch` on `device`.

    Raises:
        NvrtcError: one does not compile.
    """
    arch = architecture(device.index)
    with ThreadPoolExecutor(len(variants)) as pool:
        for _ in pool.map(lambda defines: cached_cubin(source, defines, arch), variants):
            pass


_functions: dict[tuple, ctypes.c_void_p] = {}
_lock = threading.Lock()


def _function(source: str, name: str, defines: tuple[tuple[str, str], ...], device: int) -> ctypes.c_void_p:
    loaded = (source, name, defines, device)
    if loaded in _functions:
        return _functions[loaded]
    with _lock:
        if loaded not in _functions:
            _functions[loaded] = _load(cached_cubin(source, defines, architecture(device)), name)
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
