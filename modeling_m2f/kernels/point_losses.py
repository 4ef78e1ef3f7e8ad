"""Mask losses at points, and their gradient, by csrc/point_losses_cpu.cpp on a CPU.

What is computed is defined by modeling_m2f/mask_losses.py in plain PyTorch, which runs everywhere else.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.c_arguments import integers, pointer, threads
from m2f.modeling_m2f.kernels.cpu_source import CpuSource
from m2f.modeling_m2f.kernels.sampled_points import WORK_PER_POINT

POINT_LOSSES = CpuSource("point_losses_cpu.cpp", "The loss")
# As in the source.
_PIXEL_TYPES = {torch.int32: 0, torch.uint8: 1, torch.bool: 1, torch.float32: 2, torch.float64: 3}
_PIXEL_TYPES |= {torch.bfloat16: 4, torch.float16: 5}


class StoredMasks(NamedTuple):
    """Masks of one image as they are stored, see `MaskTargets`.

    pixels: flat, int32 index maps or masks one by one. first: (n,) int64, where the pixels of each mask begin.
    values: (n,) int64, the value of each mask's pixels in index maps; not read otherwise. size: of the stored masks,
    which fill the top left corner of the canvas. valid_size: beyond it no point counts. ignored: `size` bool or None.
    """

    pixels: Tensor
    first: Tensor
    values: Tensor
    size: tuple[int, ...]
    canvas: tuple[int, ...]
    valid_size: tuple[int, ...]
    ignored: Tensor | None


def mask_losses_(
    logits: Tensor,
    points: Tensor,
    num_candidates: int,
    num_uncertain: int,
    targets: StoredMasks,
    coefficients: Tensor,
    learns: bool,
) -> Tensor:
    """Mask loss and dice loss of each mask, (2, n), at `num_uncertain` of its first `num_candidates` points, those
    with the smallest logits that count, and at all others.

    Args:
        logits: (n, h, w) float32, contiguous; where `learns` holds it takes the gradient of the losses' sum, weighted
            by `coefficients`.
        points: (n, R, 2) float32 in [0, 1].
        coefficients: (2,) float32.
    """
    points, coefficients = points.contiguous(), coefficients.contiguous()
    losses = torch.empty(2, len(logits))
    counts = (len(logits), points.shape[1], num_candidates, num_uncertain)
    places = (*targets.size, *targets.canvas, *targets.valid_size)
    sizes = integers(*counts, *logits.shape[1:], *places, _PIXEL_TYPES[targets.pixels.dtype], learns)
    buffers = (logits, points, targets.pixels, targets.first, targets.values, targets.ignored, coefficients, losses)
    work = threads(WORK_PER_POINT * points.shape[0] * points.shape[1])
    POINT_LOSSES.library().m2f_mask_losses(*map(pointer, buffers), sizes, *work)
    return losses
