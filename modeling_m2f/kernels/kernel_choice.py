"""Which implementation of deformable attention runs: a kernel, or plain PyTorch with one warning that says why.

CPU tensors go to the C++ kernel, CUDA tensors to the CUDA kernel, everything else to plain PyTorch. The environment
variable M2F_KERNELS decides otherwise: `reference` never uses a kernel, `compiled` raises where there is none, `auto`
(default) warns once and uses plain PyTorch.

Inside the transformations of torch.func (grad, vmap, jvp and what is made of them), in forward-mode differentiation
and under `torch.jit.trace` plain PyTorch runs, whatever the variable says: they see through nothing else.
"""

import functools
import os
import warnings

import torch

from m2f.modeling_m2f.kernels.cpu_compiler import KernelUnavailableError
from m2f.modeling_m2f.kernels.cpu_kernel import cpu_unavailable_reason
from m2f.modeling_m2f.kernels.cpu_library import C_TYPES
from m2f.modeling_m2f.kernels.cuda_check import cuda_unavailable_reason
from m2f.modeling_m2f.kernels.readable_memory import is_transformed

CHOICES = ("auto", "reference", "compiled")
CPU_DTYPES = (torch.float16, *C_TYPES)  # float16 as float32


def kernels_choice() -> str:
    """The value of M2F_KERNELS; "reference" where a transformation sees through plain PyTorch alone.

    Raises:
        ValueError: it is none of `CHOICES`.
    """
    choice = os.environ.get("M2F_KERNELS", "auto")
    if choice not in CHOICES:
        raise ValueError(f"M2F_KERNELS={choice!r} is unknown; use one of {', '.join(CHOICES)}.")
    return "reference" if is_transformed() else choice


def kernel_unavailable_reason(device: torch.device, dtype: torch.dtype = torch.float32) -> str | None:
    """Why there is no kernel for `dtype` on `device`; None where there is one.

    The first call for a device compiles, and on a GPU runs, the kernel; the answer is kept.
    """
    if device.type == "cpu":
        return _cpu_unavailable_reason() if dtype in CPU_DTYPES else f"the CPU kernel has no {dtype}"
    if device.type == "cuda":
        return cuda_unavailable_reason(device, dtype)
    return f"there is no kernel for {device.type} devices"


_cpu_unavailable_reason = functools.cache(cpu_unavailable_reason)


@torch.compiler.assume_constant_result  # a compiled graph keeps the choice that was made when it was traced
def use_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the operators run there.

    Raises:
        ValueError: M2F_KERNELS has an unknown value.
        KernelUnavailableError: M2F_KERNELS=compiled and there is no kernel.
    """
    if kernels_choice() == "reference":
        return False
    reason = kernel_unavailable_reason(device, dtype)
    return reason is None or explain_reference(device, reason)


@torch.compiler.assume_constant_result
def explain_reference(device: torch.device, reason: str, what: str = "Deformable attention") -> bool:
    """False, after a warning that `what` runs in plain PyTorch on `device`; a reason is given once, for the first that
    meets it.

    Raises:
        KernelUnavailableError: M2F_KERNELS=compiled.
    """
    if kernels_choice() == "compiled":
        raise KernelUnavailableError(f"M2F_KERNELS=compiled, but there is no kernel on {device}: {reason}")
    # Processes that load data leave it to the main one.
    if (str(device), reason) not in warned and torch.utils.data.get_worker_info() is None:
        warned.add((str(device), reason))
        others = "as does all else that the same keeps from its kernel"
        warnings.warn(
            f"{what} runs in plain PyTorch on {device}, which is slower, {others}: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
    return False


warned: set[tuple[str, str]] = set()  # device and reason of each warning so far
