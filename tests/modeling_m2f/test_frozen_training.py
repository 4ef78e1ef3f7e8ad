"""Adapters in a frozen model whose layers are checkpointed: gradients reach them.

Expected: a gradient for each parameter that is trained.
"""

import copy

import pytest
import torch
from small_models import BACKBONES, random_targets, small_config, small_model
from torch import nn
from transformers.models.swin.modeling_swin import SwinPatchEmbeddings

from m2f.modeling_m2f.modeling_m2f import M2FModel


class Adapter(nn.Module):
    """A linear layer and a small one beside it, as LoRA."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        self.added = nn.Linear(base.in_features, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.added(x)


def adapted(model: nn.Module) -> nn.Module:
    """All frozen but adapters in the place of q_proj and value_proj."""
    model.requires_grad_(False)
    for module in list(model.modules()):
        for name in ("q_proj", "value_proj"):
            if isinstance(getattr(module, name, None), nn.Linear):
                setattr(module, name, Adapter(getattr(module, name)))
    return model


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_reach_adapters_behind_checkpointed_layers(backbone, reentrant):
    model = adapted(small_model(backbone)).train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    masks, classes = random_targets([(64, 64)], [2])
    model(torch.randn(1, 3, 64, 64), mask_labels=masks, class_labels=classes).loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) > 4 and [name for name, p in trained.items() if p.grad is None] == []
    model.disable_input_require_grads()
    assert not model.get_input_embeddings()._forward_hooks
    with torch.no_grad():
        assert not model(torch.randn(1, 3, 64, 64)).masks_queries_logits.requires_grad


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("order", ["before", "after"])
def test_checkpointing_before_and_after_peft(backbone, order):
    peft = pytest.importorskip("peft")
    model = small_model(backbone).train()
    if order == "before":
        model.gradient_checkpointing_enable()
    # level_embed, adapter_1: whole modules that are trained, an embedding and one of ours.
    config = peft.LoraConfig(
        target_modules=["q_proj", "value_proj", "fc1"], modules_to_save=["class_predictor", "level_embed", "adapter_1"]
    )
    model = peft.get_peft_model(model, config)
    if order == "after":
        model.gradient_checkpointing_enable()
    masks, classes = random_targets([(64, 64)], [2])
    model(torch.randn(1, 3, 64, 64), mask_labels=masks, class_labels=classes).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_input_embeddings_are_what_reads_the_pixels():
    assert isinstance(small_model("swin").get_input_embeddings(), SwinPatchEmbeddings)
    for backbone in BACKBONES:
        model = M2FModel(small_config(backbone))
        before = model.get_input_embeddings()
        model.set_input_embeddings(other := copy.deepcopy(before))
        assert model.get_input_embeddings() is other is not before
        seen = []
        other.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(inputs[0]))
        model(pixels := torch.randn(1, 3, 64, 64))
        assert torch.equal(seen[0], pixels)
