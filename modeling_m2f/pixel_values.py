"""`pixel_values` and `pixel_mask`: checked at the model's boundary, and padded to what the backbone can divide."""

from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from m2f.modeling_m2f.kernels.readable_memory import is_transformed

SIZE_DIVISOR = 32  # the coarsest stride; the original's MASK_FORMER.SIZE_DIVISIBILITY


def check_shapes(pixel_values: Tensor, pixel_mask: Tensor | None, num_channels: int):
    """Raise ValueError unless (B, num_channels, height, width) and (B, height, width) are given."""
    shape = tuple(pixel_values.shape)
    if len(shape) != 4 or shape[1] != num_channels or 0 in shape[2:]:
        raise ValueError(
            f"pixel_values are {shape}; (batch, {num_channels}, height, width) is needed, none of them 0."
        )
    if pixel_mask is not None and tuple(pixel_mask.shape) != (shape[0], *shape[2:]):
        raise ValueError(
            f"pixel_mask is {tuple(pixel_mask.shape)}; pixel_values {shape} need {(shape[0], *shape[2:])}."
        )


def check_values(pixel_values: Tensor, pixel_mask: Tensor | None):
    """Raise ValueError for pixels that are not finite, and for a mask whose ones are not a rectangle in the top left
    corner. Skipped where values cannot be looked at: while compiling, tracing or capturing a CUDA graph, and inside
    torch.func."""
    if not values_can_be_read(pixel_values):
        return
    finite = pixel_values.isfinite().flatten(1).all(1)
    if not finite.all():
        images = (~finite).nonzero().flatten().tolist()
        raise ValueError(f"pixel_values of image {images} in the batch are NaN or infinite; they must be finite.")
    if pixel_mask is None:
        return
    filled = pixel_mask.bool().flatten(1).sum(1) == image_sizes(pixel_values, pixel_mask).prod(1)
    rectangle = filled & pixel_mask[:, 0, 0].bool()
    if not rectangle.all():
        images = (~rectangle).nonzero().flatten().tolist()
        raise ValueError(
            f"pixel_mask of image {images} in the batch is not a rectangle of ones in the top left corner; padding "
            "must stand on the right and at the bottom."
        )


def values_can_be_read(tensor: Tensor) -> bool:
    """Whether Python may branch on the tensor's values."""
    if torch.compiler.is_compiling() or is_transformed() or tensor.device.type == "meta":
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def image_sizes(pixel_values: Tensor, pixel_mask: Tensor | None) -> Tensor:
    """(B, 2) int64: height and width of each image's real pixels; without a mask those of `pixel_values`."""
    if pixel_mask is None:
        return torch.tensor(pixel_values.shape[-2:], device=pixel_values.device).repeat(pixel_values.shape[0], 1)
    mask = pixel_mask.bool()
    return torch.stack([mask.any(2).sum(1), mask.any(1).sum(1)], 1)


def sizes_to_report(
    sizes: Tensor, pixel_values: Tensor, pixel_mask: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """`valid_sizes` and `input_sizes` of the outputs, from `image_sizes`; each (B, 2) int64 or None.

    Where an image ends is said by its mask alone. Without one the caller may have padded, and no more is known than
    the size of `pixel_values`: a bound of the image where `pad_to_multiple` pads further, and no news elsewhere.
    """
    if pixel_mask is not None:
        return sizes, None
    grows = any(round_up(length) != length for length in pixel_values.shape[-2:])
    return (sizes.clone() if grows else None), sizes


def has_padding(pixel_mask: Tensor | None) -> bool:
    """Whether some pixel may be padding; a mask that cannot be looked at may hold any."""
    if pixel_mask is None:
        return False
    return not values_can_be_read(pixel_mask) or not bool(pixel_mask.bool().all())


Length = TypeVar("Length", int, Tensor)


def round_up(length: Length) -> Length:
    """The next multiple of the coarsest stride."""
    return (length + SIZE_DIVISOR - 1) // SIZE_DIVISOR * SIZE_DIVISOR


def pad_to_multiple(pixel_values: Tensor) -> Tensor:
    """(B, 3, height, width) -> (B, 3, H, W), multiples of 32, zeros on the right and at the bottom, as the original;
    transformers takes any size, and its masks then lie at odd places."""
    height, width = pixel_values.shape[-2:]
    if height % SIZE_DIVISOR == 0 and width % SIZE_DIVISOR == 0:
        return pixel_values
    return pad(pixel_values, (0, round_up(width) - width, 0, round_up(height) - height))
