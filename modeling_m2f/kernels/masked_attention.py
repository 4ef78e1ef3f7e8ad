"""Masked attention from queries to cells by csrc/masked_attention_cpu.cpp on a CPU, as one PyTorch operator without a
backward pass.

softmax(query key^T / sqrt(D)) value per head, over the cells that a query sees; defined by `attend` in attention.py,
which runs everywhere else. 100 queries, 8 heads of 32 channels, 6,400 cells, float32, 2 cores of an AMD EPYC, against
torch's `scaled_dot_product_attention` with a mask: 8.0 and 12.9 ms where a query sees any half of the cells, 3.1 and
11.4 ms where it sees a twentieth of them in one stretch.
"""

import functools

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.cpu_compiler import KernelUnavailableError, load_library
from m2f.modeling_m2f.kernels.cpu_library import C_TYPES, integers, pointer, threads
from m2f.modeling_m2f.kernels.kernel_choice import explain_reference, kernels_choice
from m2f.modeling_m2f.kernels.kernel_sources import read_source

SOURCE = "masked_attention_cpu.cpp"
OPERATOR = "m2f::masked_attention_v1"


def has_masked_attention(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether `masked_attention` runs there; on a CPU without a compiler it does not, with one warning.

    Raises:
        ValueError: M2F_KERNELS has an unknown value.
        KernelUnavailableError: M2F_KERNELS=compiled and the CPU's kernel cannot be had.
    """
    return device.type == "cpu" and dtype in C_TYPES and _is_on_cpu(dtype, head_dim)


@torch.compiler.assume_constant_result  # a compiled graph keeps the choice that was made when it was traced
def _is_on_cpu(dtype: torch.dtype, head_dim: int) -> bool:
    if kernels_choice() == "reference":
        return False
    reason = unavailable_reason(dtype, head_dim)
    if reason is not None:
        return explain_reference(torch.device("cpu"), reason, "Masked attention")
    _define_operator()
    return True


@functools.cache
def unavailable_reason(dtype: torch.dtype, head_dim: int) -> str | None:
    """Why the kernel cannot be compiled on this machine; None where it can. Compiles it on the first call."""
    try:
        _library(dtype, head_dim)
    except KernelUnavailableError as error:
        return str(error)
    return None


def masked_attention(query: Tensor, key: Tensor, value: Tensor, keep: Tensor, num_heads: int) -> Tensor:
    """(B, Q, C) in the dtype of query.

    Args:
        query: (B, Q, C) of float32, float64 or bfloat16. key, value: (B, S, C).
        keep: (B, 1, Q, S) bool, True where a query sees a cell; a row that is wholly False gives NaN.
    """
    return torch.ops.m2f.masked_attention_v1(query, key, value, keep, num_heads)


def _masked_attention(query: Tensor, key: Tensor, value: Tensor, keep: Tensor, num_heads: int) -> Tensor:
    query, key, value, keep = (x.contiguous() for x in (query, key, value, keep))
    batch, queries, channels = query.shape
    cells, out = key.shape[1], torch.empty_like(query)
    sizes, work = integers(batch, queries, cells, num_heads), 2 * batch * queries * cells * channels
    library = _library(query.dtype, channels // num_heads)
    library.m2f_masked_attention(*map(pointer, (query, key, value, keep, out)), sizes, *threads(work))
    return out


@functools.cache
def _library(dtype: torch.dtype, head_dim: int):
    return load_library(read_source(SOURCE), {"M2F_DTYPE": C_TYPES[dtype], "M2F_HEAD_DIM": head_dim})


def _define_operator():
    """Does nothing where this version of the operator exists."""
    if not hasattr(torch.ops.m2f, OPERATOR.split("::")[1]):
        operator = torch.library.custom_op(OPERATOR, _masked_attention, mutates_args=(), device_types="cpu")
        operator.register_fake(lambda query, *others: query.new_empty(query.shape))
