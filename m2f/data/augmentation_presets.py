"""The augmentations of the paper's configurations by name, a gentle one for any other data, and one for microscopes.

Source: the configuration files of facebookresearch/Mask2Former (configs/<data set>/...: INPUT.IMAGE_SIZE, MIN_SCALE,
MAX_SCALE, MIN_SIZE_TRAIN, MAX_SIZE_TRAIN, CROP, COLOR_AUG_SSD, SIZE_DIVISIBILITY) and its dataset mappers.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from m2f.data.augmentation import Compose, RandomFlip, RandomTranspose
from m2f.data.color_jitter import SsdColorTransform
from m2f.data.random_resize_crop import (
    FixedSizeCrop,
    LargeScaleJitter,
    RandomCrop,
    RandomCropWithCategoryConstraint,
    ResizeAndCrop,
    ResizeShortestEdge,
)
from m2f.image_processing.resolution_presets import RESOLUTION_PRESETS, get_preset


class AugmentationPreset(NamedTuple):
    """What one recipe needs.

    Args:
        augmentation: for `TrainingDataset`.
        canvas: (height, width) that batches are padded to, for `Collator`; None pads to the largest image.
        processor_size: `size` of the image processor for evaluation.
    """

    augmentation: Compose
    canvas: tuple[int, int] | None
    processor_size: dict[str, int]


@dataclass(frozen=True)
class JitterRecipe:
    """Flip, large-scale jitter, crop of `size` x `size` on a canvas of that size."""

    size: int
    scales: tuple[float, float]
    crop: type[RandomCrop] | type[FixedSizeCrop]

    def build(self, processor_size: dict[str, int]) -> AugmentationPreset:
        square = (self.size, self.size)
        steps = (RandomFlip(), ResizeAndCrop(LargeScaleJitter(square, *self.scales), self.crop(square)))
        return AugmentationPreset(Compose(steps), square, processor_size)


@dataclass(frozen=True)
class MicroscopeRecipe(JitterRecipe):
    """Large-scale jitter and crop as above; all eight orientations, because no image has an upright one; other stains
    and exposures."""

    def build(self, processor_size: dict[str, int]) -> AugmentationPreset:
        square = (self.size, self.size)
        resize = ResizeAndCrop(LargeScaleJitter(square, *self.scales), self.crop(square))
        orient = (RandomFlip("horizontal"), RandomFlip("vertical"), RandomTranspose())
        # SSD's 32 levels of brightness would make black of fluorescent objects, which may be 15 above their ground.
        colors = SsdColorTransform(brightness=8)
        return AugmentationPreset(Compose((resize, *orient, colors)), square, processor_size)


@dataclass(frozen=True)
class ShortestEdgeRecipe:
    """Shortest edge at 0.5, 0.6, ... 2.0 of `edge`, longest at most 4 of it; crop, SSD's colours, flip."""

    edge: int
    crop: tuple[int, int]
    canvas: tuple[int, int] | None

    def build(self, processor_size: dict[str, int]) -> AugmentationPreset:
        edges = tuple(tenths * self.edge // 10 for tenths in range(5, 21))
        resize = ResizeShortestEdge(edges, 4 * self.edge)
        crop = RandomCropWithCategoryConstraint(self.crop, single_category_max_area=1.0)
        steps = (ResizeAndCrop(resize, crop), SsdColorTransform(), RandomFlip())
        return AugmentationPreset(Compose(steps), self.canvas, processor_size)


_COCO = JitterRecipe(1024, (0.1, 2.0), FixedSizeCrop)
_CITYSCAPES = ShortestEdgeRecipe(1024, (512, 1024), None)
_ADE20K_640 = ShortestEdgeRecipe(640, (640, 640), (640, 640))
_MAPILLARY = ShortestEdgeRecipe(2048, (1024, 1024), (1024, 1024))

RECIPES: dict[str, JitterRecipe | ShortestEdgeRecipe] = {
    "coco-panoptic": _COCO,
    "coco-instance": _COCO,
    "cityscapes-panoptic": _CITYSCAPES,
    "cityscapes-instance": _CITYSCAPES,
    "cityscapes-semantic": _CITYSCAPES,
    "ade20k-panoptic": _ADE20K_640,
    "ade20k-instance": _ADE20K_640,
    # 512 is the setting of the R50, R101, Swin-T and Swin-S checkpoints, 640 that of Swin-B and Swin-L.
    "ade20k-semantic": ShortestEdgeRecipe(512, (512, 512), (512, 512)),
    "ade20k-semantic-640": _ADE20K_640,
    "mapillary-vistas-panoptic": _MAPILLARY,
    "mapillary-vistas-semantic": _MAPILLARY,
    # For a fine-tune on images of any kind: the standard scale jitter of Ghiasi et al. (2021), no change of colour.
    "fine-tune": JitterRecipe(640, (0.8, 1.25), RandomCrop),
    # A crop shows from a quarter of an image to all of it.
    "microscope": MicroscopeRecipe(256, (1.0, 2.0), RandomCrop),
}


def augmentation_preset(name: str, size: int | None = None) -> AugmentationPreset:
    """The recipe called `name`: a data set and task of the paper, such as "coco-panoptic", "fine-tune" or
    "microscope".

    Args:
        size: edge of the square crop in place of the recipe's 1024, 640 or 256, for the recipes with scale jitter
            ("coco-...", "fine-tune" and "microscope").

    Raises:
        ValueError: no such recipe (the message lists them), or one that `size` does not fit.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown augmentation preset {name!r}; there are {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    if size is not None:
        if not isinstance(recipe, JitterRecipe):
            fitting = ", ".join(other for other, entry in RECIPES.items() if isinstance(entry, JitterRecipe))
            raise ValueError(f"size={size} cannot be given for {name!r}; it can for {fitting}")
        recipe = replace(recipe, size=size)
    return recipe.build(_processor_size(name, recipe))


def _processor_size(name: str, recipe: JitterRecipe | ShortestEdgeRecipe) -> dict[str, int]:
    """The paper's test size; without one, or with another crop, the size that a jitter of 1 gives."""
    if isinstance(recipe, JitterRecipe) and (name not in RESOLUTION_PRESETS or recipe != RECIPES[name]):
        return {"longest_edge": recipe.size}
    return get_preset(name).processor_fields()["size"]
