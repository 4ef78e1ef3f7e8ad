"""Masks at the target size in plain PyTorch, a few at a time: what GPUs run, and the definition of what the CPU's
kernel computes. modeling_m2f/kernels/resized_masks.py has the same methods.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class MaskGeometry(NamedTuple):
    """The sizes between a mask's logits and the image file, each (height, width) in pixels."""

    padded: tuple[int, int]
    valid: tuple[int, int]
    target: tuple[int, int]


class PlainMasks:
    """N masks of an image, upsampled when they are needed; nothing waits for a GPU.

    Args:
        mask_logits: (Q,h,w).
        chosen: (N,) indices of the masks, N > 0.
        chunk_bytes: see `resized_chunks`.
    """

    def __init__(self, mask_logits: Tensor, chosen: Tensor, geometry: MaskGeometry, chunk_bytes: int):
        self._logits, self._chosen = mask_logits, chosen
        self._geometry, self._chunk_bytes = geometry, chunk_bytes

    def merge(self, scores: Tensor, mask_threshold: float) -> tuple[Tensor, Tensor]:
        """Which mask wins each pixel: that with the largest score * sigmoid(logit).

        Args:
            scores: (N,) float32 in [0, 1].
            mask_threshold: the probability from which a pixel is in a mask.

        Returns:
            (H,W) int32, 1 + index of the winner, 0 where the winner's mask does not have the pixel; and (3,N) int64:
            for each mask the pixels that it wins, that it has, and both.
        """
        target, device = self._geometry.target, self._logits.device
        best = torch.full(target, -1.0, device=device)
        winner = torch.zeros(target, dtype=torch.int32, device=device)
        inside = torch.zeros(target, dtype=torch.bool, device=device)
        mask_areas = []
        for start, logits in self._chunks(self._chosen):
            probs = logits.sigmoid_()
            in_mask = probs >= mask_threshold
            mask_areas.append(in_mask.sum((1, 2)))
            chunk_best, chunk_winner = probs.mul_(scores[start : start + len(probs), None, None]).max(0)
            better = chunk_best > best
            best = torch.where(better, chunk_best, best)
            inside = torch.where(better, in_mask.gather(0, chunk_winner[None])[0], inside)
            winner = torch.where(better, (chunk_winner + start).int(), winner)
        codes = (winner + 1) * inside
        won = winner.flatten().bincount(minlength=len(scores))
        visible = codes.flatten().bincount(minlength=len(scores) + 1)[1:]
        return codes, torch.stack([won, torch.cat(mask_areas), visible])

    def measure(self, logit_threshold: float) -> tuple[Tensor, Tensor]:
        """(N,) int64 pixels whose logit is above the threshold, and (N,) float32 sums of their probabilities."""
        areas, sums = [], []
        for _, logits in self._chunks(self._chosen):
            inside = logits > logit_threshold
            areas.append(inside.sum((1, 2)))
            sums.append(logits.sigmoid_().mul_(inside).sum((1, 2)))
        return torch.cat(areas), torch.cat(sums)

    def binary(self, which: Tensor, logit_threshold: float) -> Tensor:
        """(M,H,W) bool, pixels whose logit is above the threshold, of the masks at the indices `which` (M,) of N."""
        masks = torch.empty((len(which), *self._geometry.target), dtype=torch.bool, device=self._logits.device)
        for start, logits in self._chunks(self._chosen[which]):
            torch.gt(logits, logit_threshold, out=masks[start : start + len(logits)])
        return masks

    def _chunks(self, chosen: Tensor) -> Iterator[tuple[int, Tensor]]:
        return resized_chunks(self._logits[chosen], self._geometry, self._chunk_bytes)


def resized_chunks(mask_logits: Tensor, geometry: MaskGeometry, chunk_bytes: int) -> Iterator[tuple[int, Tensor]]:
    """`resize_masks` a few masks at a time: pairs of the first mask's index and (n,H,W) logits.

    At the largest of the sizes that they pass through, the logits of a chunk have at most `chunk_bytes`, or are one
    mask's.
    """
    pixels = max(size[0] * size[1] for size in geometry)
    step = max(1, chunk_bytes // (4 * pixels))
    for start in range(0, len(mask_logits), step):
        yield start, resize_masks(mask_logits[start : start + step], geometry)


def resize_masks(maps: Tensor, geometry: MaskGeometry) -> Tensor:
    """(N,h,w) logits -> (N,H,W) at the target size: bilinear to the padded size, crop, bilinear to the target."""
    return crop_and_resize(_bilinear(maps.float(), geometry.padded), geometry)


def crop_and_resize(maps: Tensor, geometry: MaskGeometry) -> Tensor:
    """(N,*padded) -> (N,*target)."""
    height, width = geometry.valid
    return _bilinear(maps[:, :height, :width], geometry.target)


def _bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N,H,W) -> (N,*size); bilinear resizing to the same size is the identity."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
