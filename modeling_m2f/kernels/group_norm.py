"""Group normalisation of channels-last maps in place by csrc/group_norm_cpu.cpp on a CPU, with what follows it in a
feature pyramid.

What is computed is defined by `MaskedGroupNorm` in plain PyTorch, which runs everywhere else: there each step is a
pass over the largest maps of the model, with padding many.
"""

import ctypes

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.c_arguments import integers, pointer, threads
from m2f.modeling_m2f.kernels.cpu_source import CpuSource

GROUP_NORM = CpuSource("group_norm_cpu.cpp", "Group normalisation", (torch.float32, torch.bfloat16))


def group_norm_(
    features: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    valid: tuple[Tensor, Tensor] | None,
    coarser: Tensor | None,
    coarser_valid: tuple[Tensor, Tensor] | None,
    relu: bool,
):
    """Overwrite `features` with its normalised form, plus a coarser map resized to its size, or with its negative
    numbers set to 0; 0 outside the valid part, which alone is seen.

    Args:
        features: (B, C, H, W), contiguous in channels-last order, float32 or bfloat16.
        groups, weight, bias, eps: of `nn.GroupNorm`; (C,).
        valid: rows and columns of the valid part, (B,) int64 each; None: the whole map.
        coarser: (B, C, h, w), as `features`; None: nothing is added. Not with `relu`.
        coarser_valid: as `valid`; its last row and column are repeated beyond.
    """
    if not features.numel():
        return
    batch, channels, height, width = features.shape
    coarse_size = (1, 1) if coarser is None else tuple(coarser.shape[2:])
    parts = [
        torch.tensor([[length] * batch for length in size]) if cells is None else torch.stack(cells)
        for cells, size in ((valid, (height, width)), (coarser_valid, coarse_size))
    ]
    lines = [x.detach().float().contiguous() for x in (weight, bias)]
    sizes = integers(batch, height, width, channels, groups, relu, *coarse_size)
    cells = torch.cat(parts).contiguous()
    GROUP_NORM.library(features.dtype).m2f_group_norm(
        pointer(features),
        *map(pointer, lines),
        ctypes.c_double(eps),
        pointer(cells),
        pointer(coarser),
        sizes,
        *threads(2 * features.numel()),
    )
