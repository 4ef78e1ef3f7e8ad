"""What each kernel's work runs as on this machine, and why, in words."""

import os
import shlex

import torch

from m2f.modeling_m2f.kernels.cpu_compiler import KernelUnavailableError, find_compiler
from m2f.modeling_m2f.kernels.cuda_driver import architecture
from m2f.modeling_m2f.kernels.cuda_kernel import DTYPES
from m2f.modeling_m2f.kernels.group_norm import SOURCE as group_norm_source
from m2f.modeling_m2f.kernels.kernel_cache import cache_folder
from m2f.modeling_m2f.kernels.kernel_choice import CHOICES, kernel_unavailable_reason
from m2f.modeling_m2f.kernels.masked_attention import SOURCE as masked_attention_source
from m2f.modeling_m2f.kernels.nvrtc import NvrtcError, nvrtc, nvrtc_version
from m2f.modeling_m2f.kernels.padded_pixels import SOURCE as padded_pixels_source
from m2f.modeling_m2f.kernels.point_kernels import LOSSES_SOURCE, POINTS_SOURCE
from m2f.modeling_m2f.kernels.resized_masks import SOURCE as resized_masks_source
from m2f.modeling_m2f.kernels.semantic_votes import SOURCE as semantic_votes_source
from m2f.modeling_m2f.kernels.whole_sources import unavailable_reason
from m2f.modeling_m2f.kernels.window_attention_kernel import window_kernel_unavailable_reason
from m2f.modeling_m2f.kernels.winograd_tiles import SOURCE as winograd_source

_USUAL_HEAD, _USUAL_WINDOW = 32, 7  # channels of a head and edge of a window, of Swin-T to Swin-L
# By what it does: a source, and what it is compiled for in the usual case.
WHOLE_SOURCES = {
    "masked attention": (masked_attention_source, {"M2F_DTYPE": "float", "M2F_HEAD_DIM": _USUAL_HEAD}),
    "3x3 convolution": (winograd_source, {}),
    "group norm": (group_norm_source, {"M2F_DTYPE": "float"}),
    "point sampling": (POINTS_SOURCE, {}),
    "mask losses": (LOSSES_SOURCE, {}),
    "resized masks": (resized_masks_source, {}),
    "semantic votes": (semantic_votes_source, {}),
    "padded pixels": (padded_pixels_source, {}),
}


def kernel_report() -> list[tuple[str, str]]:
    """Pairs of a name and a finding: the settings, then deformable attention on every device of this machine.

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


def cpu_kernel_report() -> list[tuple[str, str]]:
    """Pairs of a kernel's work and a finding, of all that deformable attention is not. They are for the CPU alone:
    plain PyTorch is what GPUs are meant to run. It compiles them."""
    reasons = [("window attention", window_kernel_unavailable_reason(torch.float32, _USUAL_HEAD, _USUAL_WINDOW))]
    reasons += [(work, unavailable_reason(source, **uses)) for work, (source, uses) in WHOLE_SOURCES.items()]
    cpu = torch.device("cpu")
    return [(work, _finding(cpu, {torch.float32: reason})) for work, reason in reasons]


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
    dtypes = tuple(DTYPES) if device.type == "cuda" else (torch.float32,)
    return _finding(device, {dtype: kernel_unavailable_reason(device, dtype) for dtype in dtypes})


def _finding(device: torch.device, reasons: dict[torch.dtype, str | None]) -> str:
    setting = os.environ.get("M2F_KERNELS", "auto")
    if setting == "reference":
        return "plain PyTorch: M2F_KERNELS=reference"
    found = [dtype for dtype, reason in reasons.items() if reason is None]
    otherwise = "no kernel, which M2F_KERNELS=compiled makes an error" if setting == "compiled" else "plain PyTorch"
    missing = sorted({f"{otherwise}: {reason}" for reason in reasons.values() if reason is not None})
    return "; ".join(([_kernel(device, found)] if found else []) + missing)


def _kernel(device: torch.device, dtypes: list[torch.dtype]) -> str:
    if device.type == "cpu":
        return f"C++ kernel, {torch.get_num_threads()} threads"
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    return f"CUDA kernel ({torch.cuda.get_device_name(device)}, {architecture(device.index)}) for {names}"
