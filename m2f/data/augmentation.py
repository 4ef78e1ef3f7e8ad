"""Random changes to training images and their masks. Each takes its random generator, so that a seed decides all."""

import numpy as np
from PIL import Image

from m2f.data.coco_instances import InstanceSample

_FLIPS = {"horizontal": (Image.Transpose.FLIP_LEFT_RIGHT, 2), "vertical": (Image.Transpose.FLIP_TOP_BOTTOM, 1)}


def random_crop(sample: InstanceSample, size: tuple[int, int], generator: np.random.Generator) -> InstanceSample:
    """A window of at most `size` (height, width) at a uniform place; an axis that is shorter stays whole.

    Instances without a pixel in the window are left out.
    """
    extent = sample.masks.shape[-2:]
    height, width = (min(pair) for pair in zip(size, extent, strict=True))
    top, left = (int(generator.integers(full - part + 1)) for full, part in zip(extent, (height, width), strict=True))
    masks = sample.masks[:, top : top + height, left : left + width]
    visible = masks.any((1, 2))
    return sample._replace(
        image=sample.image.crop((left, top, left + width, top + height)),
        masks=np.ascontiguousarray(masks[visible]),
        class_ids=sample.class_ids[visible],
    )


def random_flip(
    sample: InstanceSample, axis: str, generator: np.random.Generator, probability: float = 0.5
) -> InstanceSample:
    """Mirrored along `axis`, "horizontal" (left and right change places) or "vertical", with `probability`.

    Raises:
        ValueError: another axis.
    """
    if axis not in _FLIPS:
        raise ValueError(f"axis must be one of {', '.join(_FLIPS)}, got {axis!r}")
    method, array_axis = _FLIPS[axis]
    if generator.random() >= probability:
        return sample
    return sample._replace(
        image=sample.image.transpose(method), masks=np.ascontiguousarray(np.flip(sample.masks, array_axis))
    )


def random_transpose(
    sample: InstanceSample, generator: np.random.Generator, probability: float = 0.5
) -> InstanceSample:
    """Rows and columns exchanged with `probability`. With both flips this gives all eight orientations, for images
    that have no upright one, such as those of a microscope."""
    if generator.random() >= probability:
        return sample
    return sample._replace(
        image=sample.image.transpose(Image.Transpose.TRANSPOSE),
        masks=np.ascontiguousarray(sample.masks.transpose(0, 2, 1)),
    )
