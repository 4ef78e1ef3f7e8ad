"""Models of transformers as ours and back in memory, and the replacement in its Auto classes."""

import pytest
import torch
from small_models import BACKBONES, small_model
from stock_models import transformers_model
from transformers import (
    Mask2FormerForUniversalSegmentation,
    Mask2FormerModel,
)

import m2f
from m2f.hub.transformers_models import convert, to_transformers
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation, M2FModel


@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES)
def test_converted_model_has_the_same_logits_and_the_same_memory(backbone):
    theirs = transformers_model(backbone)
    ours = m2f.convert(theirs)
    assert type(ours) is M2FForUniversalSegmentation and not ours.training
    pixels = torch.randn(2, 3, 64, 96)
    expected, actual = theirs(pixels), ours(pixels)
    for name in ("class_queries_logits", "masks_queries_logits"):
        torch.testing.assert_close(actual[name], expected[name], atol=1e-4, rtol=0)
    storages = {tensor.data_ptr() for tensor in theirs.state_dict().values()}
    assert {tensor.data_ptr() for tensor in ours.state_dict().values()} <= storages
    theirs.class_predictor.bias += 1
    torch.testing.assert_close(ours(pixels).class_queries_logits, actual.class_queries_logits + 1)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_back_conversion_gives_every_weight_its_place(backbone):
    theirs = transformers_model(backbone)
    back = to_transformers(convert(theirs))
    assert type(back) is Mask2FormerForUniversalSegmentation
    state, again = theirs.state_dict(), back.state_dict()
    assert state.keys() == again.keys()
    assert all(again[name].data_ptr() == tensor.data_ptr() for name, tensor in state.items())
    kept = back.config.to_dict()
    differing = {name for name, value in theirs.config.to_dict().items() if kept[name] != value}
    assert differing <= {"architectures", "_name_or_path"}


def test_dtype_mode_and_wanted_gradients_stay():
    theirs = transformers_model("swin").to(torch.bfloat16).train()
    theirs.model.pixel_level_module.encoder.eval().requires_grad_(False)
    ours = convert(theirs)
    assert ours.dtype == torch.bfloat16 and ours.training
    assert not ours.model.pixel_level_module.encoder.training
    assert not any(p.requires_grad for p in ours.model.pixel_level_module.encoder.parameters())
    assert all(p.requires_grad for p in ours.class_predictor.parameters())


def test_base_models_and_configuration():
    theirs = transformers_model("resnet")
    theirs.config.id2label = {i: f"name {i}" for i in range(5)}
    ours = convert(theirs.model)
    assert type(ours) is M2FModel and type(to_transformers(ours)) is Mask2FormerModel
    config = small_model("resnet", task="instance", thing_label_ids=[1]).config
    assert convert(theirs).config.id2label == theirs.config.id2label
    stock = to_transformers(M2FForUniversalSegmentation(config)).config
    assert (stock.model_type, stock.task, stock.thing_label_ids) == ("mask2former", "instance", [1])


def test_other_models_are_refused():
    with pytest.raises(TypeError, match="a Linear was given; Mask2FormerForUniversalSegmentation or Mask2FormerModel"):
        convert(torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match="M2FForUniversalSegmentation or M2FModel is needed"):
        to_transformers(transformers_model("resnet"))
    with torch.device("meta"):
        unloaded = Mask2FormerForUniversalSegmentation(transformers_model("resnet").config)
    with pytest.raises(ValueError, match="weights are not loaded"):
        convert(unloaded)
    broken = transformers_model("resnet")
    broken.class_predictor = torch.nn.Linear(32, 9)
    with pytest.raises(ValueError, match="class_predictor.bias, class_predictor.weight"):
        convert(broken)
