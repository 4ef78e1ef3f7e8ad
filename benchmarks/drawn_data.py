"""A dataset of small drawn images on the disk, and a small model for it: for scripts that need many cheap steps."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from m2f.configuration.configuration_m2f import M2FConfig

EDGE = 64  # pixels
CONFIG = {
    "backbone_config": {
        "model_type": "resnet",
        "layer_type": "basic",
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
    },
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 64,
    "dim_feedforward": 64,
    "num_attention_heads": 4,
    "num_queries": 8,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "train_num_points": 128,
    "task": "instance",
}


def draw_data(folder: Path, train: int, val: int) -> Path:
    """images/ and masks/ with the splits train and val: one to four bright rectangles on noise, a map of instance ids
    for each image."""
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            pixels, ids = _drawn(np.random.default_rng([len(split), number]))
            Image.fromarray(pixels).save(folder / "images" / split / f"{number:03}.png")
            Image.fromarray(ids).save(folder / "masks" / split / f"{number:03}.png")
    return folder


def write_config(folder: Path) -> Path:
    """config.json of the small model, as `m2f train --scratch` takes it."""
    path = folder / "config.json"
    path.write_text(json.dumps({**M2FConfig(**CONFIG).to_dict(), "id2label": {"0": "object"}}))
    return path


def _drawn(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    pixels = generator.integers(0, 90, (EDGE, EDGE, 3), np.uint8)
    ids = np.zeros((EDGE, EDGE), np.uint8)
    for number in range(1, 2 + generator.integers(4)):
        top, left = generator.integers(0, EDGE - 24, 2)
        height, width = generator.integers(12, 24, 2)
        ids[top : top + height, left : left + width] = number
        pixels[top : top + height, left : left + width] = generator.integers(150, 255, 3)
    return pixels, ids
