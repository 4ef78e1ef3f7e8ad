"""The one entry to the kernel of window attention."""

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.cpu_library import arithmetic_dtype
from m2f.modeling_m2f.kernels.kernel_choice import explain_reference, kernels_choice
from m2f.modeling_m2f.kernels.readable_memory import is_transformed
from m2f.modeling_m2f.kernels.window_attention_kernel import (
    define_window_operator,
    window_kernel_unavailable_reason,
)
from m2f.modeling_m2f.kernels.window_attention_reference import window_attention_reference

define_window_operator()


def has_window_attention(device: torch.device, head_dim: int, window: int) -> bool:
    """Whether `window_attention` runs there; on a CPU without a compiler it does not, with one warning. There is no
    kernel for other devices: their `scaled_dot_product_attention` is not slow for windows.

    Raises:
        ValueError: M2F_KERNELS has an unknown value.
        KernelUnavailableError: M2F_KERNELS=compiled and the CPU's kernel cannot be had.
    """
    return device.type == "cpu" and _is_on_cpu(head_dim, window)


@torch.compiler.assume_constant_result  # a compiled graph keeps the choice that was made when it was traced
def _is_on_cpu(head_dim: int, window: int) -> bool:
    if kernels_choice() == "reference":
        return False
    reason = window_kernel_unavailable_reason(torch.float32, head_dim, window)
    return reason is None or explain_reference(torch.device("cpu"), reason, "Window attention")


def window_attention(qkv: Tensor, padding: Tensor, bias: Tensor, height: int, width: int, shift: int) -> Tensor:
    """(B, H * W, M * D) in the dtype of qkv; arguments as in `window_attention_reference`."""
    if not torch.compiler.is_compiling() and is_transformed():
        return window_attention_reference(qkv, padding, bias, height, width, shift)
    # Of float16 the CPU has no arithmetic; float32 holds it.
    storage = torch.float32 if qkv.dtype == torch.float16 else qkv.dtype
    out = torch.ops.m2f.window_attention_v1(
        qkv.to(storage), padding.to(storage), bias.to(arithmetic_dtype(storage)), height, width, shift
    )
    return out.to(qkv.dtype)
