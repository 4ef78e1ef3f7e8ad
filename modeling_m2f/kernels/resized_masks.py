"""Mask logits of one image, resized, merged and thresholded by csrc/resized_masks_cpu.cpp on a CPU.

Other devices, and the definition of what is computed, are plain PyTorch: image_processing/post_processing.py and
image_processing/instance_masks.py.
"""

import ctypes
import functools

import numpy as np
import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.cpu_compiler import KernelUnavailableError, load_library
from m2f.modeling_m2f.kernels.cpu_library import integers, pointer, threads
from m2f.modeling_m2f.kernels.kernel_choice import explain_reference, kernels_choice
from m2f.modeling_m2f.kernels.kernel_sources import read_source

SOURCE = "resized_masks_cpu.cpp"
TILE = 32  # as in the source
_TAPS = 3  # as in the source


def use_resized_masks(device: torch.device) -> bool:
    """Whether masks on `device` are merged by the kernel; plain PyTorch is what GPUs are meant to run.

    Raises:
        ValueError: M2F_KERNELS has an unknown value.
        KernelUnavailableError: M2F_KERNELS=compiled and the CPU's kernel cannot be had.
    """
    if kernels_choice() == "reference" or device.type != "cpu":
        return False
    reason = _unavailable_reason()
    return reason is None or explain_reference(device, reason, "Post-processing")


class ResizedMasks:
    """N masks of an image at the target size (H,W), of which no more is stored than the logits.

    Args:
        logits: (Q,h,w) of any floating dtype, on the CPU.
        chosen: (N,) indices of the masks.
        padded, valid, target: sizes (height, width); the logits are resized to `padded`, cropped to `valid`, resized to
            `target`, all bilinear. `padded` is at least (h, w).
    """

    def __init__(
        self,
        logits: Tensor,
        chosen: Tensor,
        padded: tuple[int, int],
        valid: tuple[int, int],
        target: tuple[int, int],
    ):
        self.target = target
        self._logits = logits.detach().float().contiguous()
        self._chosen = chosen.contiguous()
        size = tuple(logits.shape[1:])
        self._tables = [table for sizes in zip(size, padded, valid, target, strict=True) for table in axis_table(*sizes)]
        self._tiles = tuple(-(-edge // TILE) for edge in target)
        self._bounds = torch.empty(self._tiles[0] * self._tiles[1], 2, len(chosen))
        self._sizes = integers(len(chosen), *size, *target)
        work = len(chosen) * logits[0].numel()
        #: Whether every logit is finite. Where one is not, the other methods must not be called.
        self.finite = bool(self._call("m2f_bound_masks", pointer(self._bounds), work=work))

    def merge(self, scores: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """Which mask wins each pixel: that with the largest score * sigmoid(logit), of equal ones the first.

        Args:
            scores: (N,) float32 in [0, 1].
            threshold: the logit from which a pixel is in a mask.

        Returns:
            (H,W) int32, 1 + index of the winner, 0 where the winner's mask does not have the pixel; and (3,N) int64:
            for each mask the pixels that it wins, that it has, and both.
        """
        codes = torch.empty(self.target, dtype=torch.int32)
        counts = torch.zeros(3, len(self._chosen), dtype=torch.int64)
        arguments = (pointer(self._bounds), pointer(scores.contiguous()), ctypes.c_float(threshold))
        self._call("m2f_merge_masks", *arguments, pointer(codes), pointer(counts))
        return codes, counts

    def measure(self, threshold: float) -> tuple[Tensor, Tensor]:
        """(N,) int64 pixels whose logit is above the threshold, and (N,) float64 sums of their probabilities."""
        areas = torch.empty(len(self._chosen), self._tiles[0], dtype=torch.int64)
        sums = torch.empty(len(self._chosen), self._tiles[0], dtype=torch.float64)
        arguments = (pointer(self._bounds), ctypes.c_float(threshold), pointer(areas), pointer(sums))
        self._call("m2f_measure_masks", *arguments)
        return areas.sum(1), sums.sum(1)

    def binary(self, which: Tensor, threshold: float) -> Tensor:
        """(M,H,W) bool, pixels whose logit is above the threshold, of the masks at the indices `which` (M,) of N."""
        # NumPy's zeros are pages that the system gives at the first touch; most of a mask is never touched.
        masks = torch.from_numpy(np.zeros((len(which), *self.target), dtype=bool))
        which = which.contiguous()
        arguments = (pointer(self._bounds), ctypes.c_float(threshold), pointer(which), ctypes.c_int64(len(which)))
        self._call("m2f_write_masks", *arguments, pointer(masks))
        return masks

    def _call(self, entry: str, *arguments, work: int | None = None) -> int:
        function = getattr(_library(), entry)
        function.restype = ctypes.c_int64
        tables = (ctypes.c_void_p * len(self._tables))(*(table.data_ptr() for table in self._tables))
        inputs = (pointer(self._logits), pointer(self._chosen), tables, self._sizes)
        work = len(self._chosen) * self.target[0] * self.target[1] if work is None else work
        return function(*inputs, *arguments, *threads(work))


@functools.lru_cache(maxsize=64)
def axis_table(source: int, padded: int, valid: int, target: int) -> tuple[Tensor, Tensor]:
    """One direction of resizing `source` cells to `padded` pixels, cropping to `valid`, resizing to `target`.

    Returns:
        (3,T) int32 cells and (3,T) float32 weights of each target pixel, T the target rounded up to whole tiles; beyond
        the target the last pixel is repeated.
    """
    first, weight = _taps(source, padded)
    low, between = (np.arange(valid), np.zeros(valid)) if target == valid else _taps(valid, target)
    high = np.minimum(low + 1, valid - 1)
    cells = first[low] + np.arange(_TAPS)[:, None]
    weights = np.zeros((_TAPS, target))
    for pixels, share in ((low, 1 - between), (high, between)):
        offset = first[pixels] - first[low]  # 0 or 1, because padded >= source
        weights[offset, np.arange(target)] += share * (1 - weight[pixels])
        weights[offset + 1, np.arange(target)] += share * weight[pixels]
    rest = ((0, 0), (0, -target % TILE))
    cells = np.pad(np.minimum(cells, source - 1), rest, mode="edge").astype(np.int32)
    return torch.from_numpy(cells), torch.from_numpy(np.pad(weights, rest, mode="edge").astype(np.float32))


def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """The lower of the two cells that each pixel lies between, and the weight of the upper one.

    As PyTorch computes them, in float32 with one rounding: the position of pixel 1000 is off by up to 3e-5 cells, and
    so is its weight, more than all else that is rounded here.
    """
    scale = float(np.float32(source) / np.float32(target))
    position = np.maximum(np.float32(scale * (np.arange(target) + 0.5) - 0.5), np.float32(0))
    low = np.minimum(position.astype(np.int64), source - 1)
    # At the last cell both are the same.
    return low, np.where(low < source - 1, np.clip(position - low, 0, 1), 0)


@functools.cache
def _unavailable_reason() -> str | None:
    try:
        _library()
    except KernelUnavailableError as error:
        return str(error)
    return None


@functools.cache
def _library() -> ctypes.CDLL:
    return load_library(read_source(SOURCE), {})
