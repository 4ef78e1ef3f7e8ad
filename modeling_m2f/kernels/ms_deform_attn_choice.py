"""Which implementation of deformable attention runs: CPU tensors go to the C++ kernel, CUDA tensors to the CUDA
kernel, everything else to plain PyTorch, unless M2F_KERNELS decides otherwise (see kernel_policy.py)."""

import torch

from m2f.modeling_m2f.kernels.c_arguments import C_TYPES
from m2f.modeling_m2f.kernels.kernel_policy import explain_reference, kernels_choice
from m2f.modeling_m2f.kernels.ms_deform_attn_cpu import MS_DEFORM_ATTN, cpu_unavailable_reason

CPU_DTYPES = (torch.float16, *C_TYPES)  # float16 as float32


def kernel_unavailable_reason(device: torch.device, dtype: torch.dtype = torch.float32) -> str | None:
    """Why there is no kernel for `dtype` on `device`; None where there is one.

    The first call for a device compiles, and on a GPU runs, the kernel; the answer is kept.
    """
    if device.type == "cpu":
        return cpu_unavailable_reason() if dtype in CPU_DTYPES else f"the CPU kernel has no {dtype}"
    if device.type == "cuda":
        # Here, so that without a GPU nothing of NVRTC and the driver is imported.
        from m2f.modeling_m2f.kernels.ms_deform_attn_cuda_check import cuda_unavailable_reason

        return cuda_unavailable_reason(device, dtype)
    return f"there is no kernel for {device.type} devices"


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
    return reason is None or explain_reference(device, reason, MS_DEFORM_ATTN.what)
