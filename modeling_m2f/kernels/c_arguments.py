"""Arguments of the C++ kernels: addresses, sizes, threads and types."""

import ctypes
import functools
import os

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.readable_memory import is_dense

C_TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat16"}
# Multiplications below which a second thread costs more than it saves (starting one takes some 20 microseconds).
WORK_PER_THREAD = 200_000


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type of sums for a storage type."""
    return torch.promote_types(dtype, torch.float32)


def storage_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which a kernel gets a tensor: float32 holds float16, of which the CPU has no arithmetic."""
    return torch.float32 if dtype == torch.float16 else dtype


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """Address of a tensor's data; null for None.

    Raises:
        TypeError: `is_dense` does not hold: what lies there is something else, or nothing.
    """
    if tensor is None:
        return ctypes.c_void_p(None)
    if not is_dense(tensor):
        raise TypeError(
            f"A CPU kernel reads memory, and {type(tensor).__name__} on {tensor.device} (shape {tuple(tensor.shape)}) "
            "is no plain tensor in it; set M2F_KERNELS=reference, which uses plain PyTorch."
        )
    return ctypes.c_void_p(tensor.data_ptr())


def integers(*values: int) -> ctypes.Array:
    """An array of int64."""
    return (ctypes.c_int64 * len(values))(*values)


def threads(work: int) -> tuple[ctypes.c_int64, ctypes.c_void_p]:
    """The last two arguments of every entry: the number of threads for so many multiplications, and the address of
    GOMP_parallel in the OpenMP runtime that torch has loaded (GNU's, or Intel's, which has it too); null where there
    is none, and in a forked child."""
    count = max(1, min(torch.get_num_threads(), work // WORK_PER_THREAD))
    return ctypes.c_int64(count), ctypes.c_void_p(_loaded_gomp_parallel() if os.getpid() == _process else None)


# An OpenMP runtime does not survive a fork; a child's calls start threads of their own.
_process = os.getpid()


@functools.cache
def _loaded_gomp_parallel() -> int | None:
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError, TypeError):  # TypeError: CDLL(None) on Windows
        return None
