"""CPU kernels whose source is compiled once for each set of definitions, in most cases for none."""

import ctypes
import functools

import torch

from m2f.modeling_m2f.kernels.cpu_compiler import KernelUnavailableError, load_library
from m2f.modeling_m2f.kernels.kernel_choice import explain_reference, kernels_choice
from m2f.modeling_m2f.kernels.kernel_sources import read_source


def use_source(source: str, device: torch.device, what: str, **defines: str | int) -> bool:
    """Whether the kernels of csrc/`source`, compiled with these definitions, do `what` on `device`; plain PyTorch is
    what GPUs are meant to run.

    Raises:
        ValueError: M2F_KERNELS has an unknown value.
        KernelUnavailableError: M2F_KERNELS=compiled and the CPU's kernels cannot be had.
    """
    if kernels_choice() == "reference" or device.type != "cpu":
        return False
    reason = unavailable_reason(source, **defines)
    return reason is None or explain_reference(device, reason, what)


@functools.cache
def unavailable_reason(source: str, **defines: str | int) -> str | None:
    """Why csrc/`source` cannot be compiled on this machine; None where it can. Compiles it on the first call."""
    try:
        library(source, **defines)
    except KernelUnavailableError as error:
        return str(error)
    return None


@functools.cache
def library(source: str, **defines: str | int) -> ctypes.CDLL:
    """csrc/`source`, compiled and loaded.

    Raises:
        KernelUnavailableError: that is not possible.
    """
    return load_library(read_source(source), defines)
