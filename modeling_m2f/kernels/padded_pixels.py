"""8-bit images to normalised, padded model inputs by csrc/padded_pixels_cpu.cpp on a CPU.

What is computed is defined by image_processing/batching.py in plain PyTorch, which runs everywhere else.
"""

import ctypes

import numpy as np
from torch import Tensor

from m2f.modeling_m2f.kernels.c_arguments import integers, pointer, threads
from m2f.modeling_m2f.kernels.cpu_source import CpuSource

PADDED_PIXELS = CpuSource("padded_pixels_cpu.cpp", "Image preparation")


def pad_pixels(image: np.ndarray, table: Tensor, values: Tensor, mask: Tensor, in_threads: bool):
    """Write table[c, image[:, :, c]] and ones into the upper left corners of `values` and `mask`, 0 elsewhere.

    Args:
        image: (h,w,3) uint8.
        table: (3,256) float32, the value of each level of each channel.
        values: (3,H,W) float32, contiguous, at least as large as the image.
        mask: (H,W) int64, contiguous.
        in_threads: whether to use PyTorch's threads; False where the caller has threads of its own.
    """
    image = np.ascontiguousarray(image)
    sizes = integers(*image.shape[:2], *mask.shape)
    work = values.numel() if in_threads else 0
    pixels = ctypes.c_void_p(image.ctypes.data)
    kernel = PADDED_PIXELS.library().m2f_pad_pixels
    kernel(pixels, pointer(table), sizes, pointer(values), pointer(mask), *threads(work))
