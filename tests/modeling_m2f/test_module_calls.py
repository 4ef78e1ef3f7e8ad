"""Hooks, and forwards put in, on any module of the model: they run, and what they change counts.

Expected: what happens in PyTorch where each module is called. Modules that transformers' Mask2Former has and never
calls are named.
"""

import copy
import re

import pytest
import torch
from small_models import BACKBONES, corner_mask, random_targets, small_model
from stock_models import transformers_model
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils import _pytree as pytree

from m2f.hub.transformers_models import convert

SIZES = [(64, 96), (50, 60)]
# Lists of modules, which have no forward, and one with a forward that transformers' ResNet treats as a list.
LISTS = (nn.ModuleList, nn.ModuleDict)
TREATED_AS_LIST = re.compile(r"encoder\.stages\.\d\.layers$")
# Called in transformers too, whose result nobody reads there either.
UNREAD = {"model.pixel_level_module.encoder.swin.layernorm"}
BACKBONE = "pixel_level_module.encoder"


@pytest.fixture(params=["auto", "reference"])
def kernels(request, monkeypatch):
    monkeypatch.setenv("M2F_KERNELS", request.param)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def called_modules(model: nn.Module) -> dict[str, nn.Module]:
    """By name; without labels there is nothing to compare with."""
    named = {name: module for name, module in model.named_modules() if not isinstance(module, LISTS)}
    return {name: m for name, m in named.items() if name != "criterion" and not TREATED_AS_LIST.search(name)}


def logits(outputs) -> tuple[Tensor, Tensor]:
    return outputs.class_queries_logits, outputs.masks_queries_logits


def differs(one, other) -> bool:
    return not all(torch.allclose(x, y, rtol=1e-3, atol=1e-3) for x, y in zip(one, other, strict=True))


def noisy(module, arguments, output):
    """A forward hook that changes every tensor of numbers in the output."""

    def changed(x):
        return x + torch.randn_like(x) if isinstance(x, Tensor) and x.is_floating_point() else x

    return pytree.tree_map(changed, output)


@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("masked", [False, True])
def test_hooks_run_on_every_module(backbone, masked, kernels, pixels):
    model = small_model(backbone)
    mask = corner_mask((64, 96), SIZES) if masked else None
    expected = model(pixels, pixel_mask=mask)
    seen, kept = {"pre": set(), "forward": set()}, []

    def keep(name, output):
        seen["forward"].add(name)
        kept.extend((name, x, x.clone()) for x in pytree.tree_leaves(output) if isinstance(x, Tensor))

    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: seen["pre"].add(name))
        module.register_forward_hook(lambda _, inputs, output, name=name: keep(name, output))
    found = model(pixels, pixel_mask=mask)
    assert seen["pre"] == seen["forward"] == called_modules(model).keys()
    assert not differs(logits(found), logits(expected))
    # transformers' ResNet overwrites what its own modules made.
    changed = {name for name, x, copied in kept if not torch.equal(x, copied)}
    assert {name for name in changed if backbone == "swin" or BACKBONE not in name} == set()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_hooks_run_in_training_and_backward(backbone, kernels, pixels):
    model = small_model(backbone).train()
    seen, expected = {"forward": set(), "backward": set()}, set()

    def forward_hook(name, output):
        seen["forward"].add(name)
        # PyTorch gives others, such as ModelOutput, no backward hook.
        if isinstance(output, Tensor) or (isinstance(output, tuple) and isinstance(output[0], Tensor)):
            expected.add(name)

    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, inputs, output, name=name: forward_hook(name, output))
        # Not on transformers' ResNet, which adds in place and raises then, nor ConvNeXt: it passes its last stage by.
        if backbone == "swin" or BACKBONE not in name:
            module.register_full_backward_hook(lambda *_, name=name: seen["backward"].add(name))
    masks, classes = random_targets(SIZES, [2, 1])
    outputs = model(pixels, mask_labels=masks, class_labels=classes, pixel_mask=corner_mask((64, 96), SIZES))
    outputs.loss.backward()
    assert seen["forward"] == called_modules(model).keys() | {"criterion"}
    assert seen["backward"] >= {name for name in expected - UNREAD if backbone == "swin" or BACKBONE not in name}


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_a_hook_on_one_module_alone_changes_the_result(backbone, pixels):
    """One at a time: a hook elsewhere would turn the fast paths off."""
    model = small_model(backbone, encoder_layers=1)
    pixels = pixels[:1, :, :, :64]
    expected = logits(model(pixels))
    silent = set()
    for name, module in called_modules(model).items():
        handle = module.register_forward_hook(noisy)
        torch.manual_seed(1)
        if not differs(logits(model(pixels)), expected):
            silent.add(name)
        handle.remove()
    assert silent == UNREAD & called_modules(model).keys()
    assert not differs(logits(model(pixels)), expected)


@torch.no_grad()
def test_a_forward_put_into_one_module_alone_runs(pixels):
    """As Grad-CAM libraries, profilers and Accelerate do it."""
    model = small_model("swin", encoder_layers=1)
    pixels = pixels[:1, :, :, :64]
    expected = logits(model(pixels))
    silent = set()
    for name, module in called_modules(model).items():
        calls = []

        def recorded(*given, forward=module.forward, calls=calls, **named):
            calls.append(1)
            return forward(*given, **named)

        module.forward = recorded
        assert not differs(logits(model(pixels)), expected), name
        del module.forward
        if not calls:
            silent.add(name)
    assert silent == set()


@torch.no_grad()
def test_a_hook_on_all_modules_sees_every_module(pixels):
    model, seen = small_model("swin"), set()
    handle = register_module_forward_hook(lambda module, inputs, output: seen.add(module))
    try:
        model(pixels)
    finally:
        handle.remove()
    assert seen == set(called_modules(model).values())


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_hooks_get_what_they_get_in_transformers(backbone, pixels):
    """Of the backbone and the convolutions of the pixel decoder, the same tensors as transformers' modules give."""
    theirs = transformers_model(backbone)
    ours = convert(theirs).eval()
    seen = []
    for model in (theirs, ours):
        seen.append({})
        for name, module in model.model.pixel_level_module.named_modules():
            if "decoder.encoder" not in name:
                keep = seen[-1].setdefault(name, [])
                module.register_forward_hook(lambda _, inputs, output, keep=keep: keep.append(copy.copy(output)))
        model(pixels)
    expected, found = seen
    compared = 0
    assert expected.keys() - found.keys() == {"decoder.position_embedding"}  # a function here
    for name in expected.keys() & found.keys():
        outputs = expected[name]
        assert len(found[name]) == len(outputs), name
        for x, y in zip(found[name], outputs, strict=True):
            if isinstance(x, Tensor | tuple):
                leaves = [pytree.tree_leaves(output) for output in (x, y)]
                for pair in zip(*leaves, strict=True):
                    torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-3, msg=lambda text, name=name: name + text)
                    compared += 1
    assert compared > 40


class OnlyFeatures(nn.Module):
    """Put in the place of a module of ours, which gets the images' sizes besides."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, features: Tensor) -> Tensor:
        return self.module(features)


@torch.no_grad()
def test_modules_in_the_place_of_ours_need_not_know_of_padding(pixels):
    model = small_model("swin")
    decoder = model.model.pixel_level_module.decoder
    expected = model(pixels)
    decoder.adapter_1 = OnlyFeatures(decoder.adapter_1)
    decoder.layer_1[1] = OnlyFeatures(decoder.layer_1[1])
    decoder.input_projections[1][1] = OnlyFeatures(decoder.input_projections[1][1])
    assert not differs(logits(model(pixels)), logits(expected))
    masked = model(pixels, pixel_mask=corner_mask((64, 96), SIZES))
    assert masked.pixel_decoder_last_hidden_state.isfinite().all()
