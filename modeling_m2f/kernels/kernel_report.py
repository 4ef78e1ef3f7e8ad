"""What deformable attention runs on this machine, and why, in words."""

import os
import shlex

import torch

from m2f.modeling_m2f.kernels.cpu_compiler import KernelUnavailableError, find_compiler
from m2f.modeling_m2f.kernels.cuda_driver import architecture
from m2f.modeling_m2f.kernels.cuda_kernel import DTYPES
from m2f.modeling_m2f.kernels.kernel_cache import cache_folder
from m2f.modeling_m2f.kernels.kernel_choice import CHOICES, kernel_unavailable_reason
from m2f.modeling_m2f.kernels.nvrtc import NvrtcError, nvrtc, nvrtc_version


def kernel_report() -> list[tuple[str, str]]:
    """Pairs of a name and a finding: the settings, then every device of this machine.

    It takes the steps of a first use: kernels are compiled, and on a GPU run, so that each finding is what a model
    would meet.
    """
    settings = [
        ("M2F_KERNELS", _setting()),
        ("kernel cache", str(cache_folder())),
        ("C++ compiler", _compiler()),
        ("NVRTC", _nvrtc()),
    ]
    return settings + [(str(device), _implementation(device)) for device in _devices()]


def _setting() -> str:
    value = os.environ.get("M2F_KERNELS")
    if value is None:
        return "auto (not set)"
    return value if value in CHOICES else f"{value!r} is unknown; use one of {', '.join(CHOICES)}"


def _compiler() -> str:
    try:
        return shlex.join(find_compiler())
    except KernelUnavailableError as error:
        return str(error)


def _nvrtc() -> str:
    try:
        return f"{nvrtc_version()}, {nvrtc()._name}"
    except NvrtcError as error:
        return str(error)


def _devices() -> list[torch.device]:
    """The CPU, each CUDA device, and another accelerator that PyTorch knows, such as mps or xpu."""
    devices = [torch.device("cpu")]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return devices
    if accelerator.type != "cuda":
        return [*devices, accelerator]
    return devices + [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def _implementation(device: torch.device) -> str:
    setting = os.environ.get("M2F_KERNELS", "auto")
    if setting == "reference":
        return "plain PyTorch: M2F_KERNELS=reference"
    dtypes = tuple(DTYPES) if device.type == "cuda" else (torch.float32,)
    reasons = {dtype: kernel_unavailable_reason(device, dtype) for dtype in dtypes}
    found = [dtype for dtype, reason in reasons.items() if reason is None]
    otherwise = "no kernel, which M2F_KERNELS=compiled makes an error" if setting == "compiled" else "plain PyTorch"
    missing = sorted({f"{otherwise}: {reason}" for reason in reasons.values() if reason is not None})
    return "; ".join(([_kernel(device, found)] if found else []) + missing)


def _kernel(device: torch.device, dtypes: list[torch.dtype]) -> str:
    if device.type == "cpu":
        return f"C++ kernel, {torch.get_num_threads()} threads"
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    return f"CUDA kernel ({torch.cuda.get_device_name(device)}, {architecture(device.index)}) for {names}"
