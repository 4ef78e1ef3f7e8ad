"""The sizes that post-processing needs, from the model's outputs and the caller's `target_sizes`.

The masks cover the canvas: `pixel_values`, whose size without a pixel_mask is `outputs.input_sizes` (B,2), and where
the outputs lack it (transformers' model, a bare pair of logits) 4 x the mask logits, less what the model itself may
have padded. An image fills the top left corner of its canvas, its valid size, which the first of these gives that
applies:

1. `outputs.valid_sizes` (B,2), what a pixel_mask or the caller said.
2. Every target size is the canvas: the whole canvas. transformers' examples evaluate so, at the size of the labels.
3. The target sizes are those of images that this processor prepared: what its resize rule makes of them, if that,
   padded as the processor pads, gives this canvas. In a batch all fit into it and the largest gives it. A single image
   may lie in the larger canvas of a batch that it was taken from, if the resize rule leaves its size as it is.
4. The whole canvas, as in transformers: something else resized the images, and padded nothing.

A warning tells once of 4, of an image taken from a batch, and of 2 and 3 where both apply and differ. Without target
sizes results have the sizes of 1, else the size of the canvas.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from transformers.utils import logging

from m2f.image_processing.plain_masks import MaskGeometry
from m2f.image_processing.resize_rule import round_up

logger = logging.get_logger(__name__)

# The mask logits have a quarter of the padded size, in the original, in transformers and in m2f.
_MASK_STRIDE = 4
# What models pad to on their own: transformers' to the stride of the masks (in its patch embedding and convolutions),
# m2f to that of the coarsest features.
_MODEL_MULTIPLES = (_MASK_STRIDE, 32)
_REMEDY = (
    " To say where the images end, pass the processor's pixel_mask to the model, or set outputs.valid_sizes to each "
    "image's (height, width) inside pixel_values."
)
_TARGETS_ARE_CANVAS = (
    "The target sizes are taken for the size of pixel_values, which they equal, though this processor would make "
    "pixel_values of that size of images of these sizes too, with padding." + _REMEDY
)
_TARGETS_ARE_FILES = (
    "The target sizes are taken for those of the images, because this processor makes of these what the model was "
    "given, though one of them equals the size of pixel_values too." + _REMEDY
)
_OUT_OF_BATCH = (
    "The model was given no pixel_mask, and a larger input than this processor makes of one image of the target size. "
    "The image, whose size this processor keeps, is taken to be from a batch with larger ones." + _REMEDY
)
_WHOLE_CANVAS = (
    "The model was given no pixel_mask, and this processor does not make of images of the target sizes what the model "
    "was given (a size= in its call is not known here). As in transformers, the masks are taken to cover the images, "
    "without padding." + _REMEDY
)

Size = tuple[int, int]  # (height, width)


class Prepared(NamedTuple):
    """What a processor makes of a batch of images."""

    sizes: list[Size]  # after the resize step
    canvases: list[Size]  # of each, after padding; empty if one does not fit into `pad_size`
    # Larger images in the batch make the canvas larger, to a multiple of this. None: they do not, or the processor
    # does not resize, so that sizes tell nothing.
    divisor: int | None


class _Canvas(NamedTuple):
    """The size of `pixel_values`, exact or up to what the model padded."""

    size: Size
    is_exact: bool

    def can_be(self, size: Size, multiples: Sequence[int] = _MODEL_MULTIPLES) -> bool:
        """Whether it may be this size, for a model that pads to one of `multiples`."""
        if self.is_exact:
            return size == self.size
        return any(tuple(round_up(edge, multiple) for edge in size) == self.size for multiple in multiples)


def mask_geometries(
    outputs: Any, targets: list[Size] | None, prepare: Callable[[list[Size]], Prepared]
) -> list[MaskGeometry]:
    """One MaskGeometry for each image of the batch, by the rule above.

    Args:
        outputs: has `masks_queries_logits` (B,Q,h,w) and perhaps `valid_sizes` and `input_sizes`.
        targets: B sizes, see `read_target_sizes`, or None.
        prepare: what the processor makes of images of some sizes.

    Raises:
        ValueError: `valid_sizes` or `input_sizes` are not B pairs of positive integers, or exceed the padded size.
    """
    batch_size, _, height, width = outputs.masks_queries_logits.shape
    padded = (height * _MASK_STRIDE, width * _MASK_STRIDE)
    valid = _read_model_sizes(outputs, "valid_sizes", batch_size, padded)
    given = _read_model_sizes(outputs, "input_sizes", batch_size, padded)
    if valid == given and valid != [padded] * batch_size:
        valid = None  # the model's own: without a pixel_mask it knows no more than what it padded itself
    if valid is None:
        canvases = [_Canvas(size, True) for size in given] if given else [_Canvas(padded, False)] * batch_size
        valid = [canvas.size for canvas in canvases]
        if targets is not None and targets != valid:
            valid = _sizes_by_rule(targets, canvases, prepare(targets))
        elif targets is not None:
            _tell_doubt(targets, canvases, prepare(targets))
    return [MaskGeometry(padded, size, target) for size, target in zip(valid, targets or valid, strict=True)]


def _tell_doubt(targets: list[Size], canvases: list[_Canvas], prepared: Prepared) -> None:
    """Target sizes that equal the canvas, or the sizes of image files that the processor padded to it?"""
    if _is_prepared(canvases, prepared) and prepared.sizes != targets:
        logger.warning_once(_TARGETS_ARE_CANVAS)


def _sizes_by_rule(targets: list[Size], canvases: list[_Canvas], prepared: Prepared) -> list[Size]:
    """Rules 3 and 4."""
    whole = [canvas.size for canvas in canvases]
    if _is_prepared(canvases, prepared):
        if any(t == w != p for t, w, p in zip(targets, whole, prepared.sizes, strict=True)):
            logger.warning_once(_TARGETS_ARE_FILES)
        return prepared.sizes
    if len(targets) == 1 and prepared.sizes == targets and _holds(whole[0], prepared):
        logger.warning_once(_OUT_OF_BATCH)
        return targets
    logger.warning_once(_WHOLE_CANVAS)
    # transformers' model takes pixel_values of any size, which the logits tell up to 3 pixels.
    at_stride = (_MASK_STRIDE,)
    is_input = len(set(targets)) == 1 and all(canvas.can_be(targets[0], at_stride) for canvas in canvases)
    return targets if is_input else whole


def _is_prepared(canvases: list[_Canvas], prepared: Prepared) -> bool:
    """Whether the processor gives these canvases."""
    return bool(prepared.canvases) and all(map(_Canvas.can_be, canvases, prepared.canvases))


def _holds(canvas: Size, prepared: Prepared) -> bool:
    """Whether the only image, and larger ones, may have been padded to this canvas."""
    if not prepared.divisor:
        return False
    edges = zip(canvas, prepared.canvases[0], strict=True)
    return all(edge >= least and edge % prepared.divisor == 0 for edge, least in edges)


def read_target_sizes(sizes: Any, outputs: Any) -> list[Size]:
    """A (B,2) tensor, or a sequence of pairs or 2-element tensors, as tuples of ints.

    Raises:
        ValueError: not one for each image, or no pair of positive integers.
    """
    return _read_sizes(sizes, outputs.masks_queries_logits.shape[0], "target_sizes")


def _read_model_sizes(outputs: Any, name: str, batch_size: int, padded: Size) -> list[Size] | None:
    if getattr(outputs, name, None) is None:
        return None
    sizes = _read_sizes(getattr(outputs, name), batch_size, name)
    for index, size in enumerate(sizes):
        if size[0] > padded[0] or size[1] > padded[1]:
            raise ValueError(
                f"image {index}: a size of {_show(size)} reported by the model in {name} does not fit into the padded "
                f"size of {_show(padded)} (4 x the mask logits). Set outputs.valid_sizes to each image's (height, "
                "width) inside pixel_values"
            )
    return sizes


def _read_sizes(sizes: Any, batch_size: int, name: str) -> list[Size]:
    sizes = sizes.tolist() if hasattr(sizes, "tolist") else [_as_list(size) for size in sizes]
    if len(sizes) != batch_size:
        raise ValueError(
            f"{name} has {len(sizes)} entries for a batch of {batch_size} images; pass one for each image"
        )
    for size in sizes:
        if not isinstance(size, list) or len(size) != 2 or not all(map(_is_positive_integer, size)):
            raise ValueError(f"{name} must hold pairs (height, width) of positive integers, got {size}")
    return [(int(height), int(width)) for height, width in sizes]


def _is_positive_integer(edge: Any) -> bool:
    try:
        return int(edge) == edge and edge >= 1
    except (TypeError, ValueError, OverflowError):  # no number, NaN, infinity
        return False


def _as_list(size: Any) -> list:
    return size.tolist() if hasattr(size, "tolist") else list(size)


def _show(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
