"""Points on a CPU by csrc/sampled_points_cpu.cpp: drawn, read from maps that share them, and the sums over them that
matching needs.

What is computed is defined by modeling_m2f/point_sampling.py and modeling_m2f/matcher.py in plain PyTorch, which runs
everywhere else.
"""

import ctypes

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.c_arguments import integers, pointer, threads
from m2f.modeling_m2f.kernels.cpu_source import CpuSource

SAMPLED_POINTS = CpuSource("sampled_points_cpu.cpp", "The loss")
WORK_PER_POINT = 32  # multiplications that a sampled point takes as long as


def draw_uniform(seeds: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1), those of a row given by its seed alone: (n,) int64 -> (n, count) float32."""
    numbers = torch.empty(len(seeds), count)
    sizes = map(ctypes.c_int64, numbers.shape)
    SAMPLED_POINTS.library().m2f_draw(pointer(seeds), pointer(numbers), *sizes, *threads(4 * numbers.numel()))
    return numbers


def sample_shared(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps (n, h, w) at points (R, 2), float32 each: (n, R), 0 beyond the borders."""
    maps, points = maps.contiguous(), points.contiguous()
    values = torch.empty(len(maps), len(points))
    arguments = (pointer(maps), pointer(points), pointer(values), integers(*maps.shape, len(points)))
    SAMPLED_POINTS.library().m2f_sample(*arguments, *threads(WORK_PER_POINT * values.numel()))
    return values


def sigmoid_sums(logits: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Of logits (Q, R) and weights (R,), all 1 by default, float32 each: weight * sigmoid, (Q, R), its sums and those
    of weight * softplus, (Q,) each."""
    logits = logits.contiguous()
    weights = weights if weights is None else weights.contiguous()
    results = torch.empty_like(logits), logits.new_empty(len(logits)), logits.new_empty(len(logits))
    arguments = (*map(pointer, (logits, weights, *results)), *map(ctypes.c_int64, logits.shape))
    SAMPLED_POINTS.library().m2f_sigmoid_sums(*arguments, *threads(WORK_PER_POINT * logits.numel()))
    return results
