"""The steps of preprocessing one by one, under the names and arguments of transformers' image processors.

`M2FImageProcessor.preprocess` does not call them: it takes all steps at once. They are for code that is written for
transformers' Mask2FormerImageProcessor, and compute what `preprocess` computes.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad as pad_tensor
from transformers.image_processing_base import BatchFeature

from m2f.image_processing.mask_labels import binary_masks_and_classes
from m2f.image_processing.resize_rule import resized_size, round_up

Array = np.ndarray | Tensor

if TYPE_CHECKING:
    from transformers.image_processing_utils import BaseImageProcessor as _Base
else:
    _Base = object


class ProcessingStepsMixin(_Base):
    """For a `BaseImageProcessor` with `default_to_square`, `resample` and `preprocess`."""

    resample: Any

    def resize(
        self, image: Image.Image | Array, size: Any, size_divisor: int = 0, resample: int | None = None, **kwargs
    ) -> Image.Image | Array:
        """An image resized by PIL, in the form that it came in.

        Args:
            image: PIL image, or (..., H, W) array or tensor.
            size: as the processor's `size`.
            size_divisor: stretches the result to multiples of it, as in transformers; `preprocess` pads instead.
            resample: PIL's number of the filter; None: the processor's.
            kwargs: accepted as in transformers, and not read.

        Returns:
            Of the same type and dtype; its size is rounded half up, which transformers truncates.
        """
        size = dict(self._standardize_kwargs(**self._fields(size=size))["size"])
        resample = Image.Resampling(self.resample if resample is None else resample)
        if isinstance(image, Image.Image):
            height, width = _stretched(resized_size((image.height, image.width), size), size_divisor)
            return image.resize((width, height), resample)
        target = _stretched(resized_size(tuple(image.shape[-2:]), size), size_divisor)
        if isinstance(image, Tensor):
            planes = _resize_planes(image.detach().cpu().numpy(), target, resample)
            return torch.from_numpy(planes).to(image.device)
        return _resize_planes(image, target, resample)

    def pad(
        self,
        images: Tensor | Sequence[Array],
        padded_size: tuple[int, int],
        segmentation_maps: Sequence[Array] | None = None,
        fill: float = 0,
        ignore_index: int = 255,
    ) -> tuple[Array | list[Array], Array | list[Array], list[Array] | None]:
        """Images padded at the right and at the bottom.

        Args:
            images: (B, C, H, W), or a list of (C, H, W).
            padded_size: (height, width).
            segmentation_maps: (..., H, W) each, padded with `ignore_index`, where `preprocess` pads
                targets with 0.
            fill: value of the images' padding.

        Returns:
            The images and their masks, int64 with 1 at real pixels, (B, *padded_size) or a list; and the maps.

        Raises:
            ValueError: an image or a map is larger than `padded_size`.
        """
        maps = None
        if segmentation_maps is not None:
            maps = [_padded(label_map, padded_size, ignore_index) for label_map in segmentation_maps]
        if isinstance(images, Tensor):
            mask = images.new_ones((len(images), *images.shape[-2:]), dtype=torch.int64)
            return _padded(images, padded_size, fill), _padded(mask, padded_size, 0), maps
        padded = [_padded(image, padded_size, fill) for image in images]
        return padded, [_padded(_ones(image), padded_size, 0) for image in images], maps

    # The base class has arrays alone, these two tensors as well.
    def rescale(self, image: Array, scale: float, *args, **kwargs) -> Array:  # type: ignore[override]
        """`image * scale`."""
        return image * scale if isinstance(image, Tensor) else super().rescale(image, scale, *args, **kwargs)

    def normalize(self, image: Array, mean: Any, std: Any, *args, **kwargs) -> Array:  # type: ignore[override]
        """`(image - mean) / std`, with a number for each channel of (..., C, H, W)."""
        if not isinstance(image, Tensor):
            return super().normalize(image, mean, std, *args, **kwargs)
        mean, std = (torch.as_tensor(values, dtype=torch.float32, device=image.device) for values in (mean, std))
        return (image - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)

    def rescale_and_normalize(
        self,
        images: Array,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | Sequence[float],
        image_std: float | Sequence[float],
    ) -> Array:
        """The steps that are asked for, as float32."""
        images = images.float() if isinstance(images, Tensor) else images.astype(np.float32)
        if do_rescale:
            images = self.rescale(images, rescale_factor)
        return self.normalize(images, image_mean, image_std) if do_normalize else images

    def encode_inputs(
        self,
        pixel_values_list: Any,
        segmentation_maps: Any = None,
        instance_id_to_semantic_id: Any = None,
        ignore_index: int | None = None,
        do_reduce_labels: bool = False,
        return_tensors: str | None = None,
        input_data_format: str | None = None,
    ) -> BatchFeature:
        """Images that are processed already padded to one size, with their masks and targets (transformers 4);
        arguments and result otherwise as of `preprocess`."""
        return self.preprocess(
            pixel_values_list,
            segmentation_maps,
            instance_id_to_semantic_id,
            ignore_index=ignore_index,
            do_reduce_labels=do_reduce_labels,
            return_tensors=return_tensors,
            input_data_format=input_data_format,
            do_resize=False,
            do_rescale=False,
            do_normalize=False,
            size_divisor=1,
        )

    def convert_segmentation_map_to_binary_masks(
        self,
        segmentation_map: np.ndarray,
        instance_id_to_semantic_id: Mapping[int, int] | None = None,
        ignore_index: int | None = None,
        do_reduce_labels: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) integers -> (N, H, W) float32 masks of 0 and 1, and (N,) int64 classes (transformers 4); the rules
        are those of `mask_labels.binary_masks_and_classes`."""
        segmentation_map = np.asarray(segmentation_map).astype(np.int32)
        masks, classes = binary_masks_and_classes(
            segmentation_map, segmentation_map.shape, instance_id_to_semantic_id, ignore_index, do_reduce_labels
        )
        return masks.numpy().astype(np.float32), classes.numpy()

    def _fields(self, **given: Any) -> dict[str, Any]:
        """The processor's settings with those given in their place."""
        return {name: getattr(self, name, None) for name in self._valid_kwargs_names} | given


def _stretched(size: tuple[int, int], divisor: int) -> tuple[int, int]:
    return round_up(size[0], divisor or 1), round_up(size[1], divisor or 1)


def _resize_planes(planes: np.ndarray, size: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    """(..., H, W) -> (..., *size), plane by plane; PIL resizes the channels of an image no other way."""
    # PIL has planes of 8-bit, 32-bit and floating numbers.
    wide = planes if planes.dtype == np.uint8 else planes.astype(np.float32 if planes.dtype.kind == "f" else np.int32)
    flat = [Image.fromarray(np.ascontiguousarray(plane)) for plane in wide.reshape(-1, *planes.shape[-2:])]
    resized = np.stack([np.asarray(plane.resize(size[::-1], resample)) for plane in flat])
    return resized.reshape(*planes.shape[:-2], *size).astype(planes.dtype)


def _padded(array: Array, size: tuple[int, int], fill: float) -> Array:
    below, right = size[0] - array.shape[-2], size[1] - array.shape[-1]
    if below < 0 or right < 0:
        raise ValueError(
            f"{array.shape[-2]} x {array.shape[-1]} pixels (height x width) do not fit into padded_size "
            f"{size[0]} x {size[1]}; pass a larger padded_size"
        )
    if isinstance(array, Tensor):
        return pad_tensor(array, (0, right, 0, below), value=fill)
    widths = [(0, 0)] * (array.ndim - 2) + [(0, below), (0, right)]
    return np.pad(array, widths, constant_values=fill)


def _ones(image: Array) -> Array:
    """(H, W) int64."""
    if isinstance(image, Tensor):
        return image.new_ones(image.shape[-2:], dtype=torch.int64)
    return np.ones(image.shape[-2:], np.int64)
