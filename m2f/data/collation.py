"""From samples to a batch that a model takes as `model(**batch)`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m2f.data.coco_instances import InstanceSample


class InstanceCollator:
    """Prepares the images with an image processor and brings the masks to the size that the images got.

    The processor's segmentation maps hold one id per pixel and would lose overlaps; masks are resized here, with
    nearest neighbours as there.

    Args:
        image_processor: an `M2FImageProcessor`, or any other that returns "pixel_values" and "pixel_mask".
    """

    def __init__(self, image_processor: Any):
        self.image_processor = image_processor

    def __call__(self, samples: Sequence[InstanceSample]) -> dict[str, Tensor | list[Tensor]]:
        """A batch.

        Returns:
            "pixel_values" (B, 3, H, W) float32 and "pixel_mask" (B, H, W) int64, 1 at real pixels; "mask_labels", per
            image (N, H, W) uint8 of 0 and 1, padded with 0, and "class_labels", per image (N,) int64.
        """
        inputs = self.image_processor([sample.image for sample in samples], return_tensors="pt")
        masks = [
            _fit(sample.masks, pixel_mask) for sample, pixel_mask in zip(samples, inputs["pixel_mask"], strict=True)
        ]
        return {
            "pixel_values": inputs["pixel_values"],
            "pixel_mask": inputs["pixel_mask"],
            "mask_labels": masks,
            "class_labels": [torch.from_numpy(sample.class_ids) for sample in samples],
        }


def resize_masks_nearest(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, h, w) -> (N, *size): each pixel takes the value under its centre, as PIL's NEAREST."""
    if masks.shape[-2:] == tuple(size):
        return masks
    pairs = zip(size, masks.shape[-2:], strict=True)
    rows, columns = (((np.arange(new) + 0.5) * (old / new)).astype(np.int64) for new, old in pairs)
    return masks[:, rows[:, None], columns]


def _fit(masks: np.ndarray, pixel_mask: Tensor) -> Tensor:
    """Masks of the original image on the canvas of `pixel_mask` (H, W), whose ones fill the top left corner."""
    height, width = int(pixel_mask[:, 0].sum()), int(pixel_mask[0].sum())
    canvas = torch.zeros((len(masks), *pixel_mask.shape), dtype=torch.uint8)
    canvas[:, :height, :width] = torch.from_numpy(np.ascontiguousarray(resize_masks_nearest(masks, (height, width))))
    return canvas
