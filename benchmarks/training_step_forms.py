"""Our model and transformers' Mask2Former with the same weights and targets, and a training step of each.

    python benchmarks/training_step_forms.py ours 512 2 20 2

prints the peak memory of a step in bytes, above model, optimizer state and batch, in a process of its own.
"""

import math
import sys

import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from m2f.bench.compared_models import BACKBONES
from m2f.bench.peak_memory import growth
from m2f.configuration.configuration_m2f import M2FConfig
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

NUM_CLASSES = 133  # COCO panoptic
THEIRS = "transformers"  # has no gradient checkpointing in the releases that were tried
FORMS = ("ours", "ours, keeping all", "ours, checkpointing", THEIRS)
COMPILED = "ours, compiled"
# Ours with other backbones, and what of them is trained, beside Swin-T.
BACKBONE_FORMS = ("ours", "dinov3-small", "dinov3-small, frozen", "dinov3-small, LoRA", "dinov2-small")
_RANK = 8
_SWIN_TINY = {
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "drop_path_rate": 0.3,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


def make_model(form: str, device: str = "cpu") -> torch.nn.Module:
    """Swin-T with random weights, the same in every form; or another backbone."""
    if form in BACKBONE_FORMS[1:]:
        return _vision_transformer(*form.partition(", ")[::2]).to(device).train()
    config = Mask2FormerConfig(backbone_config=SwinConfig(**_SWIN_TINY), num_labels=NUM_CLASSES)
    torch.manual_seed(0)
    model = Mask2FormerForUniversalSegmentation(config)
    if form.startswith("ours"):
        fields = {name: value for name, value in config.to_dict().items() if name != "model_type"}
        fields["recompute_feedforward"] = not form.endswith("keeping all")
        model = M2FForUniversalSegmentation.from_pretrained(
            None, config=M2FConfig(**fields), state_dict=model.state_dict()
        )
    if form.endswith("checkpointing"):
        model.gradient_checkpointing_enable()
    return model.to(device).train()


def _vision_transformer(backbone: str, trained: str) -> torch.nn.Module:
    kind, fields, queries = BACKBONES[backbone]
    torch.manual_seed(0)
    drop_path = {"drop_path_rate": 0.3}
    config = M2FConfig(backbone_config=kind(**fields, **drop_path), num_queries=queries, num_labels=NUM_CLASSES)
    model = M2FForUniversalSegmentation(config)
    if trained == "frozen":
        model.freeze_backbone()
    elif trained == "LoRA":
        model.add_backbone_adapters(_RANK)
    return model


def make_batch(form: str, size: int, batch: int, instances: int, device: str = "cpu") -> dict:
    """Random images with rectangles in a grid; ours as index maps, as our collation gives them,
    transformers' as the stacks of float masks that its image processor gives."""
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randn(batch, 3, size, size, generator=draw)
    classes = torch.randint(NUM_CLASSES, (batch, instances), generator=draw)
    masks = torch.zeros(batch, instances, size, size, dtype=torch.bool)
    cells = math.ceil(math.sqrt(instances))  # a square grid, with a margin around each rectangle
    edge = size // cells
    for n in range(instances):
        y, x = (edge * cell for cell in divmod(n, cells))
        masks[:, n, y + edge // 8 : y + edge, x + edge // 8 : x + edge] = True
    if form != THEIRS:
        ids = torch.where(masks.any(1), masks.int().argmax(1), -1)
        labels = {"mask_labels": ids.int()[:, None].to(device), "class_labels": classes.to(device)}
    else:
        labels = {"mask_labels": [m.float().to(device) for m in masks], "class_labels": list(classes.to(device))}
    return {"pixel_values": pixels.to(device), **labels}


class Step:
    """A training step in float32, or under autocast."""

    def __init__(self, form: str, device: str = "cpu", autocast: str | None = None):
        self.form, self.device = form, device
        self.autocast = autocast and getattr(torch, autocast)
        self.model = make_model(form, device)
        self.network = torch.compile(self.model, fullgraph=True) if form == COMPILED else self.model
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)

    def __call__(self, batch: dict) -> float:
        with torch.autocast(self.device, dtype=self.autocast, enabled=self.autocast is not None):
            loss = self.network(**batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def main():
    form, size, batch, instances, threads = sys.argv[1], *map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    step = Step(form)
    step(make_batch(form, 128, 1, 2))  # kernels, threads and the optimizer's state are there before
    data = make_batch(form, size, batch, instances)
    print(growth(lambda: step(data)))


if __name__ == "__main__":
    main()
