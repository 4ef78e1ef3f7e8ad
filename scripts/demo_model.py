"""Small models for nuclei with random weights, the image processor of the demo, and the threads that suit it."""

import math
import time
from typing import Any

import numpy as np
import torch

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.data.coco_instances import CocoInstances
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.validation.label_check import label_fields

IMAGE_SIZE = 192  # height and width that the images are resized to


def build_processor(train: CocoInstances) -> M2FImageProcessor:
    """Normalises with the statistics of the training images, which are much darker than photographs."""
    pixels = np.concatenate([np.asarray(sample.image).reshape(-1, 3) for sample in train]) / 255
    return M2FImageProcessor(
        task="instance",
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=pixels.mean(0).tolist(),
        image_std=pixels.std(0).tolist(),
    )


def build_model(train: CocoInstances) -> M2FForUniversalSegmentation:
    """1.4 million parameters, against 47 million of the paper's smallest model with a Swin backbone."""
    return random_model(
        small_config(IMAGE_SIZE, encoder_layers=1, decoder_layers=4, num_queries=50, **label_fields(train))
    )


def small_config(image_size: int, **fields: Any) -> M2FConfig:
    """
    Args:
        image_size: height and width of what it is trained on.
        fields: of the configuration: layers, queries, labels.
    """
    backbone = {
        "model_type": "swin",
        "image_size": image_size,
        "embed_dim": 32,
        "depths": [1, 1, 2, 1],
        "num_heads": [2, 4, 8, 16],
        "window_size": 6,
        "mlp_ratio": 2.0,
        "drop_path_rate": 0.0,
        "use_absolute_embeddings": True,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    return M2FConfig(
        backbone_config=backbone,
        feature_size=64,
        mask_feature_size=64,
        hidden_dim=64,
        encoder_feedforward_dim=256,
        dim_feedforward=256,
        num_attention_heads=4,
        # Of 192 pixels, the mask logits have 48 x 48 cells, so fewer points than the paper's 12,544 see all of a mask.
        train_num_points=1024,
        oversample_ratio=2.0,
        importance_sample_ratio=0.5,
        **fields,
    )


def random_model(config: M2FConfig) -> M2FForUniversalSegmentation:
    """Random weights, but for the backbone's position embeddings, which are sines and cosines: nothing else tells
    nuclei apart that look alike, until a backbone has learned where it is."""
    model = M2FForUniversalSegmentation(config)
    # Found by its name's end, because the path to it differs between versions of transformers.
    embeddings = next(p for name, p in model.named_parameters() if name.endswith("embeddings.position_embeddings"))
    side = config.backbone_config.image_size // 4
    embeddings.data.copy_(sine_embeddings(side, embeddings.shape[-1]))
    return model


def sine_embeddings(side: int, channels: int) -> torch.Tensor:
    """(1, side * side, channels): sines and cosines of row and column, half a wave over the image and doubled 5 times.

    A mask is linear in the features, so waves of several lengths let a query pick out a place from the first step;
    learning from zeros, nuclei that look alike stay one for longer than the demo trains.
    """
    waves = math.pi * 2.0 ** torch.arange(6) * ((torch.arange(side) + 0.5) / side)[:, None]
    code = torch.cat([waves.sin(), waves.cos()], 1)  # (side, 12)
    both = torch.cat([code[:, None].expand(-1, side, -1), code.expand(side, -1, -1)], 2).flatten(0, 1)
    return torch.nn.functional.pad(both, (0, channels - both.shape[1]))[None]


def choose_threads(model: M2FForUniversalSegmentation, batch: dict):
    """The fastest of 1, 2 and 4 threads: the operations are small, so that more gain little and lose a lot where other
    processes keep the cores busy."""

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        model(**batch).loss.backward()
        start = time.monotonic()
        for _ in range(4):
            model(**batch).loss.backward()
        return time.monotonic() - start

    torch.set_num_threads(min((n for n in (1, 2, 4) if n <= torch.get_num_threads()), key=seconds))
