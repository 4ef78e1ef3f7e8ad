"""The CPU kernels of the training objective: points drawn and read (csrc/point_sampling_cpu.cpp), masks compared at
them (csrc/mask_losses_cpu.cpp).

Other devices, and the definition of what is computed, are plain PyTorch: point_sampling.py, matcher.py and
mask_losses.py in the folder above.
"""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.cpu_library import integers, pointer, threads
from m2f.modeling_m2f.kernels.readable_memory import is_readable
from m2f.modeling_m2f.kernels.whole_sources import library, use_source

POINTS_SOURCE, LOSSES_SOURCE = "point_sampling_cpu.cpp", "mask_losses_cpu.cpp"
# As in the second source.
_PIXEL_TYPES = {torch.int32: 0, torch.uint8: 1, torch.bool: 1, torch.float32: 2, torch.float64: 3}
_PIXEL_TYPES |= {torch.bfloat16: 4, torch.float16: 5}
_WORK_PER_POINT = 32  # multiplications that a sampled point takes as long as


class StoredMasks(NamedTuple):
    """Masks of one image as they are stored, see `MaskTargets`.

    pixels: flat, int32 index maps or masks one by one. first: (n,) int64, where the pixels of each mask begin.
    values: (n,) int64, the value of each mask's pixels in index maps; not read otherwise. size: of the stored masks,
    which fill the top left corner of the canvas. valid_size: beyond it no point counts. ignored: `size` bool or None.
    """

    pixels: Tensor
    first: Tensor
    values: Tensor
    size: tuple[int, int]
    canvas: tuple[int, int]
    valid_size: tuple[int, int]
    ignored: Tensor | None


def use_point_kernels(device: torch.device, *tensors: Tensor | None) -> bool:
    """Whether the kernels do the work on `device` for `tensors`; plain PyTorch is what GPUs are meant to run.

    Raises:
        ValueError: M2F_KERNELS has an unknown value.
        KernelUnavailableError: M2F_KERNELS=compiled and the CPU's kernels cannot be had.
    """
    sources = (POINTS_SOURCE, LOSSES_SOURCE)
    return is_readable(*tensors) and all(use_source(source, device, "The loss") for source in sources)


def draw_uniform(seeds: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1), those of a row given by its seed alone: (n,) int64 -> (n, count) float32."""
    numbers = torch.empty(len(seeds), count)
    sizes = map(ctypes.c_int64, numbers.shape)
    library(POINTS_SOURCE).m2f_draw(pointer(seeds), pointer(numbers), *sizes, *threads(4 * numbers.numel()))
    return numbers


def sample_shared(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps (n, h, w) at points (R, 2), float32 each: (n, R), 0 beyond the borders."""
    maps, points = maps.contiguous(), points.contiguous()
    values = torch.empty(len(maps), len(points))
    arguments = (pointer(maps), pointer(points), pointer(values), integers(*maps.shape, len(points)))
    library(POINTS_SOURCE).m2f_sample(*arguments, *threads(_WORK_PER_POINT * values.numel()))
    return values


def sigmoid_sums(logits: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Of logits (Q, R) and weights (R,), all 1 by default, float32 each: weight * sigmoid, (Q, R), its sums and those
    of weight * softplus, (Q,) each."""
    logits = logits.contiguous()
    weights = weights if weights is None else weights.contiguous()
    results = (torch.empty_like(logits), *(logits.new_empty(len(logits)) for _ in range(2)))
    arguments = (*map(pointer, (logits, weights, *results)), *map(ctypes.c_int64, logits.shape))
    library(POINTS_SOURCE).m2f_sigmoid_sums(*arguments, *threads(_WORK_PER_POINT * logits.numel()))
    return results


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
    work = threads(_WORK_PER_POINT * points.shape[0] * points.shape[1])
    library(LOSSES_SOURCE).m2f_mask_losses(*map(pointer, buffers), sizes, *work)
    return losses
