"""Small models of transformers' own Mask2Former."""

import torch
from small_models import BACKBONES, SMALL
from transformers import AutoConfig, Mask2FormerConfig, Mask2FormerForUniversalSegmentation

STAGES = ["stage1", "stage2", "stage3", "stage4"]


def transformers_model(backbone: str) -> Mask2FormerForUniversalSegmentation:
    """With values everywhere: fresh sampling offsets, attention and norms would hide a wrong mapping."""
    fields = {name: value for name, value in BACKBONES[backbone].items() if name != "model_type"}
    backbone_config = AutoConfig.for_model(backbone, out_features=STAGES, **fields)
    torch.manual_seed(0)
    model = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=backbone_config, **SMALL)).eval()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.dim() == 1 and tensor.is_floating_point() and "empty_weight" not in name:
            tensor.data += 0.1 * torch.randn_like(tensor).abs()
        elif "sampling_offsets" in name or "attention_weights" in name or "bias_table" in name:
            torch.nn.init.normal_(tensor, std=0.3)
    return model
