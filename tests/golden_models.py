"""The original's models behind the golden files: same weights, same input.

tests/golden/*.npz and *.json hold outputs of the unmodified original on a CPU in float32; `fill` makes the weights
from names and shapes (tests/golden/fill.py).
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.hub.original_state_dict import convert_original_state_dict
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

GOLDEN = Path(__file__).parent / "golden"
STAGES = ["stage1", "stage2", "stage3", "stage4"]
R18 = {"model_type": "resnet", "layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}
R50 = {"model_type": "resnet", "depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048]}
SWIN_T = {"model_type": "swin", "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
MINI_SWIN = {"model_type": "swin", "embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]}
MINI = {
    "feature_size": 64,
    "mask_feature_size": 64,
    "hidden_dim": 64,
    "dim_feedforward": 128,
    "num_queries": 20,
    "decoder_layers": 7,
    "encoder_layers": 2,
    "num_labels": 12,
}
FULL = {"num_labels": 133}
CONFIGS = {
    "mini_r18": {**MINI, "backbone_config": {**R18, "out_features": STAGES}},
    "mini_swin": {**MINI, "backbone_config": {**MINI_SWIN, "out_features": STAGES}},
    "full_r50_coco_panoptic": {**FULL, "backbone_config": {**R50, "out_features": STAGES}},
    "full_swin_tiny_coco_panoptic": {**FULL, "backbone_config": {**SWIN_T, "out_features": STAGES}},
}

_spec = importlib.util.spec_from_file_location("golden_fill", GOLDEN / "fill.py")
golden_fill = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden_fill)


def original_state_dict(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The original's weights for its names and shapes; buffers that keep their constructor's value are left out."""
    return {
        name: torch.from_numpy(np.asarray(golden_fill.fill(name, tuple(shape))))
        for name, shape in shapes.items()
        if not name.endswith(golden_fill.KEEP)
    }


def golden_model(name: str, shapes: dict[str, list[int]]) -> M2FForUniversalSegmentation:
    state_dict = convert_original_state_dict(original_state_dict(shapes))
    config = M2FConfig(**CONFIGS[name])
    model, report = M2FForUniversalSegmentation.from_pretrained(
        None, config=config, state_dict=state_dict, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    return model.eval()


def golden_pixels(golden, meta: dict) -> torch.Tensor:
    """(1, 3, H, W): normalised and padded to a multiple of 32 as in the original."""
    image = torch.from_numpy(golden["image"]).permute(2, 0, 1).float()
    mean, std = (torch.tensor(meta[name])[:, None, None] for name in ("pixel_mean", "pixel_std"))
    pixels = ((image - mean) / std)[None]
    height, width = pixels.shape[-2:]
    return torch.nn.functional.pad(pixels, (0, -width % 32, 0, -height % 32))


def load_golden(name: str):
    return np.load(GOLDEN / f"{name}.npz"), json.loads((GOLDEN / f"{name}.json").read_text())
