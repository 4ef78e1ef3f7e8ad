"""CPU kernels whose source is compiled as it is, once, with nothing to be defined by the caller."""

import ctypes
import functools

import torch

from m2f.modeling_m2f.kernels.cpu_compiler import KernelUnavailableError, load_library
from m2f.modeling_m2f.kernels.kernel_choice import explain_reference, kernels_choice
from m2f.modeling_m2f.kernels.kernel_sources import read_source


def use_source(source: str, device: torch.device, what: str) -> bool:
    """Whether the kernels of csrc/`source` do `what` on `device`; plain PyTorch is what GPUs are meant to run.

    Raises:
        ValueError: M2F_KERNELS has an unknown value.
        KernelUnavailableError: M2F_KERNELS=compiled and the CPU's kernels cannot be had.
    """
    if kernels_choice() == "reference" or device.type != "cpu":
        return False
    reason = unavailable_reason(source)
    return reason is None or explain_reference(device, reason, what)


@functools.cache
def unavailable_reason(source: str) -> str | None:
    """Why csrc/`source` cannot be compiled on this machine; None where it can. Compiles it on the first call."""
    try:
        library(source)
    except KernelUnavailableError as error:
        return str(error)
    return None


@functools.cache
def library(source: str) -> ctypes.CDLL:
    """csrc/`source`, compiled and loaded.

    Raises:
        KernelUnavailableError: that is not possible.
    """
    return load_library(read_source(source), {})
