"""What each kernel's work runs as on this machine, and why, in words."""

import os
import shlex
from typing import Any

import torch

from m2f.modeling_m2f.kernels.cpu_compiler import find_compiler
from m2f.modeling_m2f.kernels.cpu_source import CpuSource
from m2f.modeling_m2f.kernels.cuda_driver import architecture
from m2f.modeling_m2f.kernels.group_norm import GROUP_NORM
from m2f.modeling_m2f.kernels.kernel_cache import cache_folder
from m2f.modeling_m2f.kernels.kernel_policy import CHOICES, KernelUnavailableError
from m2f.modeling_m2f.kernels.masked_attention import MASKED_ATTENTION
from m2f.modeling_m2f.kernels.ms_deform_attn_choice import kernel_unavailable_reason
from m2f.modeling_m2f.kernels.ms_deform_attn_cpu import MS_DEFORM_ATTN, usual_definitions
from m2f.modeling_m2f.kernels.ms_deform_attn_cuda import DTYPES
from m2f.modeling_m2f.kernels.nvrtc import NvrtcError, nvrtc, nvrtc_version
from m2f.modeling_m2f.kernels.padded_pixels import PADDED_PIXELS
from m2f.modeling_m2f.kernels.point_losses import POINT_LOSSES
from m2f.modeling_m2f.kernels.resized_masks import RESIZED_MASKS
from m2f.modeling_m2f.kernels.sampled_points import SAMPLED_POINTS
from m2f.modeling_m2f.kernels.semantic_votes import SEMANTIC_VOTES
from m2f.modeling_m2f.kernels.window_attention import WINDOW_ATTENTION
from m2f.modeling_m2f.kernels.winograd import WINOGRAD

# By the report's words: a source, and what it is compiled for in the usual case, which for channels of a head and the
# edge of a window is that of Swin-T to Swin-L.
CPU_SOURCES: dict[str, tuple[CpuSource, dict[str, Any]]] = {
    "window attention": (WINDOW_ATTENTION, {"dtype": torch.float32, "head_dim": 32, "window": 7}),
    "masked attention": (MASKED_ATTENTION, {"dtype": torch.float32, "head_dim": 32}),
    "3x3 convolution": (WINOGRAD, {}),
    "group norm": (GROUP_NORM, {"dtype": torch.float32}),
    "point sampling": (SAMPLED_POINTS, {}),
    "mask losses": (POINT_LOSSES, {}),
    "resized masks": (RESIZED_MASKS, {}),
    "semantic votes": (SEMANTIC_VOTES, {}),
    "padded pixels": (PADDED_PIXELS, {}),
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
    return [(work, _finding_on_cpu(source, usual)) for work, (source, usual) in CPU_SOURCES.items()]


def _finding_on_cpu(source: CpuSource, usual: dict[str, Any]) -> str:
    reason = source.unavailable_reason(**usual)
    finding = _finding(torch.device("cpu"), {torch.float32: reason})
    if reason is not None or os.environ.get("M2F_KERNELS") == "reference":
        return finding
    found = source.found(**usual)
    return "; ".join([f"{finding}, {found.origin}", *found.reasons])


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
    if device.type == "cpu":
        return _finding_on_cpu(MS_DEFORM_ATTN, usual_definitions())
    dtypes = tuple(DTYPES) if device.type == "cuda" else (torch.float32,)
    return _finding(device, {dtype: kernel_unavailable_reason(device, dtype) for dtype in dtypes})


def _finding(device: torch.device, reasons: dict[torch.dtype, str | None]) -> str:
    setting = os.environ.get("M2F_KERNELS", "auto")
    if setting == "reference":
        return "plain PyTorch: M2F_KERNELS=reference"
    found = [dtype for dtype, reason in reasons.items() if reason is None]
    is_error = setting in ("compiled", "native")
    otherwise = f"no kernel, which M2F_KERNELS={setting} makes an error" if is_error else "plain PyTorch"
    missing = sorted({f"{otherwise}: {reason}" for reason in reasons.values() if reason is not None})
    return "; ".join(([_kernel(device, found)] if found else []) + missing)


def _kernel(device: torch.device, dtypes: list[torch.dtype]) -> str:
    if device.type == "cpu":
        return f"C++ kernel, {torch.get_num_threads()} threads"
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    return f"CUDA kernel ({torch.cuda.get_device_name(device)}, {architecture(device.index)}) for {names}"
