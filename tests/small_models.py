"""Small models and targets for tests."""

import torch

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

SMALL = {
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 64,
    "dim_feedforward": 64,
    "num_attention_heads": 4,
    "num_queries": 8,
    "encoder_layers": 2,
    "decoder_layers": 4,
    "num_labels": 5,
    "train_num_points": 128,
}
BACKBONES = {
    "swin": {"model_type": "swin", "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
    "resnet": {
        "model_type": "resnet",
        "layer_type": "basic",
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
    },
    "convnext": {"model_type": "convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
}


def small_config(backbone: str = "resnet", **fields) -> M2FConfig:
    return M2FConfig(**{**SMALL, "backbone_config": dict(BACKBONES[backbone]), **fields})


def small_model(backbone: str = "resnet", seed: int = 0, **fields) -> M2FForUniversalSegmentation:
    """In evaluation mode, with sampling offsets and attention that depend on the features, as after training."""
    torch.manual_seed(seed)
    model = M2FForUniversalSegmentation(small_config(backbone, **fields))
    for name, parameter in model.named_parameters():
        if "sampling_offsets.weight" in name or "attention_weights.weight" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def random_targets(sizes: list[tuple[int, int]], counts: list[int], num_labels: int = 5):
    """Per image `counts[i]` random boxes as uint8 masks of `sizes[i]`, and random labels."""
    masks, classes = [], []
    for (height, width), count in zip(sizes, counts, strict=True):
        image = torch.zeros(count, height, width, dtype=torch.uint8)
        for mask in image:
            y, x = torch.randint(height // 2, ()), torch.randint(width // 2, ())
            mask[y : y + height // 2, x : x + width // 2] = 1
        masks.append(image)
        classes.append(torch.randint(num_labels, (count,)))
    return masks, classes


def corner_mask(canvas: tuple[int, int], sizes: list[tuple[int, int]]) -> torch.Tensor:
    """pixel_mask (B, *canvas) with ones in the top left corner."""
    mask = torch.zeros(len(sizes), *canvas, dtype=torch.int64)
    for image, (height, width) in zip(mask, sizes, strict=True):
        image[:height, :width] = 1
    return mask
