"""How many images or tiles go through the model together, where the user does not say."""

from collections.abc import Hashable

import torch
from torch import nn

from m2f.inference.memory_limits import free_memory

AUTO = "auto"
# Pixels of a batch, from which on more of them do not make an image quicker. Measured on 2 cores of an Intel Xeon with
# the bundled checkpoint at 192 x 192, milliseconds an image by batch: 1: 79, 2: 28, 4: 23, 8: 18, 16: 18, 36: 16; a
# Swin-T at 640 x 640 has nothing left to gain. On GPUs, which need more to be busy, not measured.
_PIXELS = {"cpu": 16 * 192 * 192}
_GPU_PIXELS = 2**22
# Of a pixel in float32 while the model computes: bundled checkpoint 150 to 170 bytes, Swin-T 470.
_BYTES_PER_PIXEL = 1024
_SHARE_OF_FREE_MEMORY = 1 / 8


class BatchLimit:
    """The most images of one padded shape that the model gets at a time.

    "auto" puts together what has no more pixels than are worth it, and takes for that no more than an eighth of the
    memory that is free when this is made, by an estimate of 1 KiB a pixel. An image that is larger by itself comes
    alone. What a batch gives for an image differs from what the image gives alone by the order of sums.

    Args:
        batch_size: a number for all shapes, or "auto".
        model: on its device.

    Raises:
        ValueError: it is neither.
    """

    def __init__(self, batch_size: int | str, model: nn.Module):
        if batch_size != AUTO and (not isinstance(batch_size, int) or batch_size < 1):
            raise ValueError(f"batch_size must be at least 1, or {AUTO!r}, got {batch_size!r}")
        self.batch_size = batch_size
        self._pixels = _pixels(model) if batch_size == AUTO else 0

    @property
    def is_auto(self) -> bool:
        return self.batch_size == AUTO

    def __call__(self, key: Hashable) -> int:
        """
        Args:
            key: shape of the pixel values of one image, (..., H, W); None for what always comes alone.
        """
        if isinstance(self.batch_size, int):
            return self.batch_size
        if not isinstance(key, tuple):
            return 1
        height, width = key[-2:]
        return max(1, self._pixels // (height * width))


def _pixels(model: nn.Module) -> int:
    parameter = next(model.parameters())
    device, dtype = parameter.device, parameter.dtype
    bytes_per_pixel = _BYTES_PER_PIXEL * dtype.itemsize // torch.float32.itemsize
    affordable = free_memory(device) * _SHARE_OF_FREE_MEMORY / bytes_per_pixel
    return min(_PIXELS.get(device.type, _GPU_PIXELS), int(affordable))
