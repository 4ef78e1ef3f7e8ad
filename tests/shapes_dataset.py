"""A dataset of few small images in memory, with the interface of the readers, and the runs that train on it."""

import numpy as np
import torch
from packed_masks import pack_masks
from PIL import Image
from small_models import small_config

from m2f.data.augmentation import RandomFlip
from m2f.data.augmentation_presets import AugmentationPreset
from m2f.data.segment_map import Sample
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.training_options import TrainingOptions

NAMES = ("red", "green", "blue")
THINGS = {"instance": None, "panoptic": [0, 1], "semantic": []}
SIZE = 64


class ShapesDataset:
    """Images of one to three rectangles, each in the colour of its class, on noise; the same for a seed."""

    format = "shapes"

    def __init__(self, count: int = 6, task: str = "instance", seed: int = 0, split: str = "train", size: int = SIZE):
        self.count, self.task, self.seed, self.split, self.size = count, task, seed, split, size
        self.id2label = dict(enumerate(NAMES))
        self.thing_label_ids = THINGS[task]

    def __len__(self):
        return self.count

    def __getitem__(self, index: int) -> Sample:
        generator = np.random.default_rng([self.seed, index])
        pixels = generator.integers(0, 60, (self.size, self.size, 3), np.uint8)
        masks, classes = [], generator.permutation(3)[: 1 + index % 3]
        cells = self.size // 4  # edges lie on those of the cells that a mask is predicted for
        for place, label in enumerate(classes):
            mask = np.zeros((self.size, self.size), np.uint8)
            top, left = 4 * (place * cells // 3), 4 * generator.integers(0, cells // 2)
            mask[top : top + 4 * (cells // 4), left : left + 4 * generator.integers(cells // 4, cells // 2)] = 1
            pixels[mask == 1, label] = 220
            masks.append(mask)
        # A semantic map has no pixels that are known to be none of the classes.
        ignored = np.sum(masks, axis=0) == 0 if self.task == "semantic" else None
        segments = pack_masks(masks, classes.tolist(), (self.size, self.size), ignored)
        return Sample(Image.fromarray(pixels), segments, self.name_of(index))

    def name_of(self, index: int) -> str:
        return f"{self.split}-{index}.png"

    def image_path(self, index: int):
        return None


def shapes_model(backbone: str = "resnet", seed: int = 0, **fields) -> M2FForUniversalSegmentation:
    torch.manual_seed(seed)
    names = dict(enumerate(NAMES))
    labels = {"num_labels": 3, "id2label": names, "label2id": {name: i for i, name in names.items()}}
    return M2FForUniversalSegmentation(
        small_config(backbone, **{**labels, "task": "instance", "decoder_layers": 3, **fields})
    )


def shapes_processor(task: str = "instance") -> M2FImageProcessor:
    return M2FImageProcessor(task=task, thing_label_ids=THINGS[task], size={"height": SIZE, "width": SIZE})


def flips() -> AugmentationPreset:
    return AugmentationPreset(RandomFlip(), (SIZE, SIZE), {"height": SIZE, "width": SIZE})


def shapes_options(output, **fields) -> TrainingOptions:
    """Of a run that takes seconds: no workers, float32, on the CPU."""
    few = {
        "max_steps": 6,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "workers": 0,
        "log_every": 1,
        "evaluate_every": 0,
        "checkpoint_every": 2,
        "samples": 1,
        "cpu": True,
    }
    return TrainingOptions(**{**few, "output": str(output), **fields})
