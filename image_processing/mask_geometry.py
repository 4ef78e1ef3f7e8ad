"""The sizes that post-processing needs, from the model's outputs and the caller's `target_sizes`."""

from collections.abc import Callable, Sequence
from typing import Any

from m2f.image_processing.plain_masks import MaskGeometry

# The mask logits have a quarter of the padded size, in the original, in transformers and in m2f.
_MASK_STRIDE = 4


def mask_geometries(
    outputs: Any,
    target_sizes: Sequence | None,
    valid_size_of: Callable[[tuple[int, int]], tuple[int, int]],
) -> list[MaskGeometry]:
    """One MaskGeometry for each image of the batch.

    The valid size, the part of the model's input that is no padding, is `outputs.valid_sizes` (B,2). Where the model
    does not report it, it is `valid_size_of(target size)`, what the processor makes of an image of the target size.
    Without target sizes either, the whole padded size is valid, and the target is the valid size.

    Args:
        outputs: has `masks_queries_logits` (B,Q,h,w) and perhaps `valid_sizes`.
        target_sizes: B pairs (height, width), a (B,2) tensor, or None.
        valid_size_of: resize rule of the processor.

    Raises:
        ValueError: the number of target sizes is not B, a size is no pair of positive integers, or a valid size
            exceeds the padded size.
    """
    batch_size, _, height, width = outputs.masks_queries_logits.shape
    padded = (height * _MASK_STRIDE, width * _MASK_STRIDE)
    targets = None if target_sizes is None else _read_sizes(target_sizes, batch_size, "target_sizes")
    reported = getattr(outputs, "valid_sizes", None)
    if reported is not None:
        valid = _read_sizes(reported, batch_size, "valid_sizes")
    elif targets is not None:
        valid = [valid_size_of(target) for target in targets]
    else:
        valid = [padded] * batch_size
    for index, size in enumerate(valid):
        if size[0] > padded[0] or size[1] > padded[1]:
            origin = (
                "reported by the model" if reported is not None else f"for the target size {_show(targets[index])}"
            )
            raise ValueError(
                f"image {index}: a valid size of {_show(size)} {origin} does not fit into the padded size of "
                f"{_show(padded)} (4 x the mask logits). Use the processor that prepared the images, with the same "
                "size settings, or set outputs.valid_sizes to each image's (height, width) inside pixel_values"
            )
    return [MaskGeometry(padded, size, target) for size, target in zip(valid, targets or valid, strict=True)]


def _read_sizes(sizes: Any, batch_size: int, name: str) -> list[tuple[int, int]]:
    """(B,2) tensor, or a sequence of pairs or 2-element tensors, as tuples of ints."""
    sizes = sizes.tolist() if hasattr(sizes, "tolist") else [_as_list(size) for size in sizes]
    if len(sizes) != batch_size:
        raise ValueError(
            f"{name} has {len(sizes)} entries for a batch of {batch_size} images; pass one for each image"
        )
    for size in sizes:
        if not isinstance(size, list) or len(size) != 2 or any(int(edge) != edge or edge < 1 for edge in size):
            raise ValueError(f"{name} must hold pairs (height, width) of positive integers, got {size}")
    return [(int(height), int(width)) for height, width in sizes]


def _as_list(size: Any) -> list:
    return size.tolist() if hasattr(size, "tolist") else list(size)


def _show(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
