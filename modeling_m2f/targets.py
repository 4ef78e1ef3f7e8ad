"""The labels given to the model: checked, and brought to one form, before anything is computed."""

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Fills the class labels of an image with fewer targets than the batch's largest; what Trainer pads labels with.
PADDING_LABEL = -100


def prepare_targets(
    mask_labels: list[Tensor] | Tensor,
    class_labels: list[Tensor] | Tensor,
    image_sizes: list[tuple[int, int]],
    given_size: tuple[int, int],
    canvas: tuple[int, int],
    num_classes: int,
    num_queries: int,
    device: torch.device,
) -> tuple[list[Tensor], list[Tensor]]:
    """Targets of a batch on one canvas.

    Args:
        mask_labels: per image (N, H, W), bool, uint8 or floating, or one tensor (B, N, H, W).
        class_labels: per image (N,) integers, or one tensor (B, N), where -100 marks targets that only fill up.
        image_sizes: (h, w) of each image's real pixels.
        given_size: (H, W) of the `pixel_values` given to the model.
        canvas: (H, W) inside the network, `given_size` rounded up.

    Returns:
        Per image masks (N, *canvas), padded with zeros on the right and at the bottom, and classes (N,) int64.

    Raises:
        ValueError: counts or sizes do not fit, or a class is out of range; the image's index is named.
    """
    if len(mask_labels) != len(image_sizes) or len(class_labels) != len(image_sizes):
        raise ValueError(
            f"{len(image_sizes)} images, but {len(mask_labels)} mask_labels and {len(class_labels)} class_labels; "
            "give one of each per image."
        )
    masks, classes = [], []
    for i, (image_masks, image_classes) in enumerate(zip(mask_labels, class_labels, strict=True)):
        image_masks, image_classes = _without_padding(image_masks.to(device), image_classes.to(device), i)
        _check_classes(image_classes, num_classes, i)
        masks.append(_on_canvas(image_masks, image_sizes[i], given_size, canvas, i))
        classes.append(image_classes)
    _warn_if_too_many(max((len(c) for c in classes), default=0), num_queries)
    return masks, classes


def _without_padding(masks: Tensor, classes: Tensor, i: int) -> tuple[Tensor, Tensor]:
    if masks.dim() != 3 or classes.dim() != 1 or len(masks) != len(classes):
        raise ValueError(
            f"Image {i}: mask_labels of shape {tuple(masks.shape)} and class_labels of shape {tuple(classes.shape)}; "
            "(N, height, width) and (N,) with the same N are needed."
        )
    if classes.is_floating_point() or classes.dtype == torch.bool:
        raise ValueError(f"Image {i}: class_labels are {classes.dtype}; integers are needed.")
    real = classes != PADDING_LABEL
    return masks[real], classes[real].long()


def _check_classes(classes: Tensor, num_classes: int, i: int):
    wrong = classes[(classes < 0) | (classes >= num_classes)]
    if len(wrong):
        raise ValueError(
            f"Image {i}: class_labels {sorted(set(wrong.tolist()))} are outside 0..{num_classes - 1}; num_labels="
            f"{num_classes}. Ignored regions (such as label 255) belong to no mask: drop them, or name them to the "
            "image processor as ignore_index."
        )


def _on_canvas(
    masks: Tensor, image_size: tuple[int, int], given_size: tuple[int, int], canvas: tuple[int, int], i: int
) -> Tensor:
    size = tuple(masks.shape[-2:])
    if size not in (tuple(given_size), tuple(image_size)):
        raise ValueError(
            f"Image {i}: mask_labels are {size}, but pixel_values are {tuple(given_size)} and the image's valid part "
            f"is {tuple(image_size)}; masks must have one of these sizes, or they would be silently shifted."
        )
    return pad(masks, (0, canvas[1] - size[1], 0, canvas[0] - size[0]))


def _warn_if_too_many(most_targets: int, num_queries: int):
    if most_targets > num_queries:
        logger.warning_once(
            f"An image has {most_targets} targets but the model {num_queries} queries: the {num_queries} cheapest "
            "pairs are matched and the other targets are not learned. Raise num_queries to see them all."
        )
