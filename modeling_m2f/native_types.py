"""The types in which a processor multiplies matrices.

PyTorch multiplies bfloat16 and float16 on every CPU, but without instructions for them at a small part of float32's
rate. Measured on one core of an Intel Xeon with and without use of its instructions, GFLOP/s in float32 and bfloat16:
linear layers 103 and 14, 3x3 convolutions 98 and 0.7. What has no instructions is multiplied in float32 here.
"""

import functools
import os
import platform

import torch

# oneDNN's own switch, which lets a processor be taken for a lesser one. Lower limits than these PyTorch sees itself.
_LIMIT = "ONEDNN_MAX_CPU_ISA"
_LIMITS_WITHOUT_BFLOAT16 = ("AVX512_CORE", "AVX512_CORE_VNNI")
# By type: PyTorch's question to oneDNN, and the instructions of x86 processors that multiply it, one of which must be
# there: oneDNN supports bfloat16 on all processors with AVX-512, on older ones by the instructions of float32.
_SUPPORT = {
    torch.bfloat16: ("_is_mkldnn_bf16_supported", ("avx512_bf16", "amx_bf16")),
    torch.float16: ("_is_mkldnn_fp16_supported", ("avx512_fp16", "amx_fp16")),
}


@torch.compiler.assume_constant_result
def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which matrices of `dtype` are multiplied on this machine's CPU: float32 for a type of 16 bits that
    it has no instructions for, else `dtype`."""
    return dtype if dtype not in _SUPPORT or _is_native(dtype) else torch.float32


def instruction_set() -> str:
    """What PyTorch uses of this CPU, and the types of 16 bits that are multiplied as they are."""
    native = [str(dtype).removeprefix("torch.") for dtype in _SUPPORT if product_dtype(dtype) == dtype]
    return f"{torch.backends.cpu.get_cpu_capability()}, {' and '.join(native) or 'no'} products of 16 bits"


@functools.cache
def _is_native(dtype: torch.dtype) -> bool:
    question, instructions = _SUPPORT[dtype]
    supported = getattr(torch.ops.mkldnn, question, None)
    if supported is None or not torch.backends.mkldnn.is_available() or not supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    if dtype == torch.bfloat16 and os.environ.get(_LIMIT, "").upper() in _LIMITS_WITHOUT_BFLOAT16:
        return False
    return any(_has(instruction) for instruction in instructions)


def _has(instruction: str) -> bool:
    """Of an x86 processor, as PyTorch reads it."""
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get(instruction, False))
    # Versions before 2.12 answer for some; what they cannot tell is taken as missing, which costs time alone.
    return bool(getattr(torch.cpu, f"_is_{instruction}_supported", lambda: False)())
