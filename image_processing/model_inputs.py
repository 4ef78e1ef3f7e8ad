"""The steps of preprocessing between checked inputs and the tensors that a model takes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.utils import logging

from m2f.image_processing.image_input import LoadedImage, resize_label_map, resize_rgb, spatial_size, to_rgb
from m2f.image_processing.mask_labels import binary_masks_and_classes
from m2f.image_processing.resize_rule import round_up

logger = logging.get_logger(__name__)


def check_three_channels(images: Sequence[LoadedImage]) -> None:
    """Raise ValueError unless every image has 3 channels, as do_convert_rgb=False demands."""
    for index, image in enumerate(images):
        is_pil = isinstance(image, Image.Image)
        if (image.mode != "RGB") if is_pil else (image.shape[2] != 3):
            found = f"PIL mode {image.mode}" if is_pil else f"{image.shape[2]} channels"
            raise ValueError(f"image {index} has {found}; with do_convert_rgb=False RGB is expected")


def check_map_sizes(images: Sequence[LoadedImage], label_maps: Sequence[np.ndarray]) -> None:
    """Raise ValueError unless every map has its image's size."""
    for index, (image, label_map) in enumerate(zip(images, label_maps, strict=True)):
        size = spatial_size(image)
        if label_map.shape != size:
            raise ValueError(
                f"segmentation map {index} is {label_map.shape[0]} x {label_map.shape[1]} (height x width), its image "
                f"{size[0]} x {size[1]}; both must have the same size"
            )


def canvas_sizes(
    sizes: Sequence[tuple[int, int]], do_pad: bool, pad_size: Any | None, size_divisor: int
) -> list[tuple[int, int]]:
    """The (height, width) to which each image of `sizes` is padded: one for all, or its own without padding.

    Raises:
        ValueError: an image is larger than `pad_size`.
    """
    if not do_pad:
        return list(sizes)
    if pad_size is None:
        edges = (max(size[axis] for size in sizes) for axis in (0, 1))
        canvas = tuple(round_up(edge, size_divisor or 1) for edge in edges)
        return [canvas] * len(sizes)
    canvas = (pad_size.height, pad_size.width)
    for index, size in enumerate(sizes):
        if size[0] > canvas[0] or size[1] > canvas[1]:
            raise ValueError(
                f"image {index} is {size[0]} x {size[1]} (height x width) after resizing and does not fit into "
                f"pad_size {canvas[0]} x {canvas[1]}; pass a larger pad_size or a smaller size"
            )
    return [canvas] * len(sizes)


def make_pixels(image: LoadedImage, size: tuple[int, int], canvas: tuple[int, int], settings: Mapping) -> Tensor:
    """(3,*canvas) float32: resized, rescaled and normalised pixels in the upper left corner, 0 elsewhere.

    The padding is 0 after normalisation, the mean colour, as in the original.
    """
    if settings["do_rescale"]:
        _warn_if_rescaled_already(image)
    array = resize_rgb(to_rgb(image), size, settings["resample"])
    pixels = torch.zeros((3, *canvas), dtype=torch.float32, device=settings["device"])
    region = pixels[:, : size[0], : size[1]]
    region.copy_(torch.from_numpy(array).permute(2, 0, 1))
    if settings["do_rescale"]:
        region.mul_(settings["rescale_factor"])
    if settings["do_normalize"]:
        region.sub_(_per_channel(settings["image_mean"], region)).div_(_per_channel(settings["image_std"], region))
    return pixels


def make_pixel_mask(size: tuple[int, int], canvas: tuple[int, int], device: Any) -> Tensor:
    """(*canvas) int64, 1 where the image is."""
    mask = torch.zeros(canvas, dtype=torch.int64, device=device)
    mask[: size[0], : size[1]] = 1
    return mask


def make_targets(
    label_maps: Sequence[np.ndarray],
    instance_id_to_semantic_id: Mapping[int, int] | Sequence[Mapping[int, int]] | None,
    sizes: Sequence[tuple[int, int]],
    canvases: Sequence[tuple[int, int]],
    settings: Mapping,
) -> dict[str, list]:
    """mask_labels and class_labels, lists of one tensor (or array) per image; see `binary_masks_and_classes`.

    Raises:
        ValueError: the number of dicts is not that of the maps, or a label map is not valid.
    """
    classes_of = instance_id_to_semantic_id
    if not isinstance(classes_of, list | tuple):
        classes_of = [classes_of] * len(label_maps)
    if len(classes_of) != len(label_maps):
        raise ValueError(
            f"instance_id_to_semantic_id has {len(classes_of)} dicts for {len(label_maps)} segmentation maps; pass "
            "one for each map, or one dict for all"
        )
    options = {key: settings[key] for key in ("ignore_index", "do_reduce_labels", "num_labels")}
    targets = {"mask_labels": [], "class_labels": []}
    for label_map, class_of, size, canvas in zip(label_maps, classes_of, sizes, canvases, strict=True):
        label_map = resize_label_map(label_map, size)
        pair = binary_masks_and_classes(label_map, canvas, class_of, **options)
        for items, item in zip(targets.values(), pair, strict=True):
            items.append(item.numpy() if settings["return_tensors"] == "np" else item.to(settings["device"]))
    return targets


def batch_items(items: list[Tensor], return_tensors: str | None) -> Tensor | np.ndarray | list[Tensor]:
    """Tensors of equal shape as one tensor ("pt") or array ("np"); the list itself for None.

    Raises:
        ValueError: the shapes differ, which do_pad=False allows.
    """
    if return_tensors is None:
        return items
    shapes = sorted({tuple(item.shape) for item in items})
    if len(shapes) > 1:
        raise ValueError(
            f"images of different shapes {shapes} cannot be one batch; pass do_pad=True or return_tensors=None"
        )
    batch = torch.stack(items) if len(items) > 1 else items[0][None]  # stack would copy
    return batch.cpu().numpy() if return_tensors == "np" else batch


def _per_channel(values: float | Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


def _warn_if_rescaled_already(image: LoadedImage) -> None:
    if isinstance(image, np.ndarray) and image.dtype.kind == "f" and 0 < image.max() <= 1:
        logger.warning_once(
            "A float image with values of at most 1 was given, and do_rescale=True divides it by 255 once more. Pass "
            "do_rescale=False if it is scaled to [0, 1] already."
        )
