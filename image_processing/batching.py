"""The steps of preprocessing between checked inputs and the tensors that a model takes."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.utils import logging

from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.image_loading import LoadedImage, resize_label_map, resize_rgb, spatial_size, to_rgb
from m2f.image_processing.image_threads import map_in_threads
from m2f.image_processing.mask_labels import binary_masks_and_classes
from m2f.image_processing.resize_rule import round_up
from m2f.modeling_m2f.kernels.padded_pixels import PADDED_PIXELS, pad_pixels

logger = logging.get_logger(__name__)


def check_three_channels(images: Sequence[LoadedImage], num_channels: int) -> None:
    """Raise ValueError unless every image has 3 channels, as do_convert_rgb=False demands; another number than 3 was
    checked already."""
    if num_channels != USUAL_CHANNELS:
        return
    for index, image in enumerate(images):
        if isinstance(image, Image.Image):
            is_rgb, found = image.mode == "RGB", f"PIL mode {image.mode}"
        else:
            channels = np.asarray(image).shape[2]
            is_rgb, found = channels == USUAL_CHANNELS, f"{channels} channels"
        if not is_rgb:
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
        height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
        return [(round_up(height, size_divisor or 1), round_up(width, size_divisor or 1))] * len(sizes)
    canvas = (pad_size.height, pad_size.width)
    for index, size in enumerate(sizes):
        if size[0] > canvas[0] or size[1] > canvas[1]:
            raise ValueError(
                f"image {index} is {size[0]} x {size[1]} (height x width) after resizing and does not fit into "
                f"pad_size {canvas[0]} x {canvas[1]}; pass a larger pad_size or a smaller size"
            )
    return [canvas] * len(sizes)


def make_inputs(
    images: Sequence[LoadedImage],
    sizes: Sequence[tuple[int, int]],
    canvases: Sequence[tuple[int, int]],
    settings: Mapping,
) -> dict[str, Tensor | np.ndarray | list[Tensor]]:
    """pixel_values, (B,C,*canvas) float32: resized, rescaled and normalised pixels in the upper left corner, 0
    elsewhere; pixel_mask, (B,*canvas) int64, 1 where the image is. As `settings["return_tensors"]` asks for.

    The padding is 0 after normalisation, the mean colour, as in the original. PIL resizes on the CPU, several images
    in threads; each image is then written to its place in the batch in one pass. Where `settings["device"]` is another
    device, 8-bit pixels are sent there, and normalised and padded there: the same operations with the same results.
    Resizing there would differ, because PIL rounds to 8 bits after each of its two passes.

    Raises:
        ValueError: the canvases differ, which do_pad=False allows, and a batch is asked for.
    """
    kind, device = settings["return_tensors"], torch.device(settings["device"] or "cpu")
    channels = settings["num_channels"]
    batch: Iterable = ()
    if kind is None:
        places = [_room((channels, *canvas), device) for canvas in canvases]
    else:
        _check_one_shape([(channels, *canvas) for canvas in canvases])
        batch = _room((channels, *canvases[0]), device, (len(images),))
        places = list(zip(*batch, strict=True))
    table = _normalize(torch.arange(256, dtype=torch.float32).repeat(channels, 1, 1), settings)
    make = functools.partial(_make_pixels, settings=settings, table=table, in_threads=len(images) == 1)
    made = map_in_threads(make, images, sizes, places)
    if kind is None:
        batch = map(list, zip(*made, strict=True))
    elif kind == "np":
        batch = (tensor.cpu().numpy() for tensor in batch)
    return dict(zip(("pixel_values", "pixel_mask"), batch, strict=True))


def _room(shape: tuple[int, int, int], device: torch.device, batch: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """Values of `shape` (C,H,W) and mask, not filled."""
    values = torch.empty((*batch, *shape), dtype=torch.float32, device=device)
    return values, torch.empty((*batch, *shape[1:]), dtype=torch.int64, device=device)


def _check_one_shape(all_shapes: Sequence[tuple[int, int, int]]) -> None:
    shapes = sorted(set(all_shapes))
    if len(shapes) > 1:
        raise ValueError(
            f"images of different shapes {shapes} cannot be one batch; pass do_pad=True or return_tensors=None"
        )


def _make_pixels(
    image: LoadedImage,
    size: tuple[int, int],
    place: tuple[Tensor, Tensor],
    settings: Mapping,
    table: Tensor,
    in_threads: bool,
) -> tuple[Tensor, Tensor]:
    """Fill `place`, (C,H,W) values and (H,W) mask, and return it. `table` (C,1,256) has the values of 8-bit levels."""
    white_level, do_rescale = settings["white_level"], settings["do_rescale"]
    if do_rescale and white_level in (None, "type"):
        _warn_if_rescaled_already(image)
    channels = settings["num_channels"]
    rgb = to_rgb(image, white_level, keep_floats=not do_rescale, num_channels=channels)
    array = resize_rgb(rgb, size, settings["resample"])
    values, mask = place
    # The kernel is for 3 channels.
    if array.dtype == np.uint8 and channels == USUAL_CHANNELS and PADDED_PIXELS.runs_on(values.device):
        pad_pixels(array, table, values, mask, in_threads)
        return place
    values.zero_()
    region = values[:, : size[0], : size[1]]
    # Sent as they are; copy_ would convert them first. PIL's arrays are read-only, which from_numpy warns about.
    pixels = torch.from_numpy(array if array.flags.writeable else array.copy()).to(values.device)
    _normalize(region.copy_(pixels.permute(2, 0, 1)), settings)
    mask.zero_()[: size[0], : size[1]] = 1
    return place


def _normalize(values: Tensor, settings: Mapping) -> Tensor:
    """(C,H,W) float32, rescaled and normalised in place as `settings` say."""
    if settings["do_rescale"]:
        values.mul_(settings["rescale_factor"])
    if settings["do_normalize"]:
        values.sub_(_per_channel(settings["image_mean"], values)).div_(_per_channel(settings["image_std"], values))
    return values


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
    if isinstance(instance_id_to_semantic_id, list | tuple):
        classes_of = list(instance_id_to_semantic_id)
    else:
        classes_of = [instance_id_to_semantic_id] * len(label_maps)
    if len(classes_of) != len(label_maps):
        raise ValueError(
            f"instance_id_to_semantic_id has {len(classes_of)} dicts for {len(label_maps)} segmentation maps; pass "
            "one for each map, or one dict for all"
        )
    options = {key: settings[key] for key in ("ignore_index", "do_reduce_labels", "num_labels")}
    targets: dict[str, list] = {"mask_labels": [], "class_labels": []}
    for label_map, class_of, size, canvas in zip(label_maps, classes_of, sizes, canvases, strict=True):
        label_map = resize_label_map(label_map, size)
        pair = binary_masks_and_classes(label_map, canvas, class_of, **options)
        for items, item in zip(targets.values(), pair, strict=True):
            items.append(item.numpy() if settings["return_tensors"] == "np" else item.to(settings["device"]))
    return targets


def _per_channel(values: float | Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


def _warn_if_rescaled_already(image: LoadedImage) -> None:
    if isinstance(image, np.ndarray) and image.dtype.kind == "f" and 0 < image.max() <= 1:
        logger.warning_once(
            "A float image with values of at most 1 was given, and do_rescale=True divides it by 255 once more. Pass "
            "do_rescale=False if it is scaled to [0, 1] already, or white_level=1."
        )
