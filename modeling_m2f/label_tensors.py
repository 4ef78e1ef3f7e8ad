"""Labels in the forms that people hold them in, as tensors: arrays, nested lists and lists of single masks."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

PADDING_LABEL = -100  # fills up class labels, and index maps with fewer layers; what Trainer pads labels with

# Masks of these hold 0 and 1 (`datasets` with format torch gives int64). int32 is not among them: it is index maps.
WIDE_INTEGERS = (torch.int8, torch.int16, torch.int64, torch.uint16, torch.uint32, torch.uint64)
# The same bits: torch compares and reduces no unsigned type of more than 8 bits. What does not fit is wrong anyway.
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def mask_tensor(masks: Any, size: tuple[int, ...], i: int) -> Tensor:
    """The masks of image `i`: a tensor as it is, anything else of the same type and shape.

    Args:
        masks: tensor, array, nested lists of numbers, or a list of masks as tensors or arrays. No masks: anything
            without entries, of any type and shape that begins with 0.
        size: (H, W) of a tensor without masks.

    Raises:
        ValueError: it cannot be read as numbers of one shape.
    """
    masks = _tensor(masks, f"Image {i}: mask_labels")
    if masks.dim() and not len(masks) and masks.shape[1:] != size:
        return masks.new_zeros((0, *size))
    return masks


def class_tensor(classes: Any, i: int) -> Tensor:
    """The classes of image `i` as an int64 tensor on the CPU, (0,) for anything without entries.

    Args:
        classes: tensor, array, or list of integers.

    Raises:
        ValueError: they are no integers.
    """
    classes = _tensor(classes, f"Image {i}: class_labels")
    if not classes.numel():  # torch.tensor([]) is float32
        return torch.zeros(0, dtype=torch.int64)
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise ValueError(f"Image {i}: class_labels are {classes.dtype}; integers are needed.")
    return classes.cpu().long()


def signed(masks: Tensor) -> Tensor:
    """Wide integers as a type that torch computes with, not copied."""
    return masks.view(_SIGNED[masks.dtype]) if masks.dtype in _SIGNED else masks


def _tensor(values: Any, name: str) -> Tensor:
    if isinstance(values, Tensor):
        return values
    try:
        if _holds_tensors(values):
            return torch.stack([_tensor(entry, name) for entry in values])
        array = np.asarray(values)
        # from_numpy takes no foreign byte order and no negative strides, and warns about what is read-only.
        array = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(values).__name__
        raise ValueError(f"{name} cannot be read from a {kind} as numbers of one shape: {error}") from error


def _holds_tensors(values: Any) -> bool:
    """Whether nested lists end in tensors; the first entries tell."""
    while isinstance(values, list | tuple) and len(values):
        values = values[0]
    return isinstance(values, Tensor)
