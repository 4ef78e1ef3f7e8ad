"""Models for images of another number of channels, made of ones for RGB."""

import numpy as np
import pytest
import torch
from backbone_cases import backbone_fields
from small_models import SMALL, small_model

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.modeling_m2f.input_channels import adapted_weight, input_channels_of, with_input_channels
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation


def logits(model, pixels: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.from_numpy(pixels)).masks_queries_logits


@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_images_whose_channels_repeat_give_what_they_gave_as_rgb(backbone):
    """A grey image in one channel; and twice RGB in six."""
    model = small_model(backbone)
    rgb = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    grey = np.repeat(rgb[:, :1], 3, 1)
    for pixels, others in ((grey, grey[:, :1]), (rgb, np.concatenate([rgb, rgb], 1))):
        new = with_input_channels(model, others.shape[1])
        assert input_channels_of(new) == others.shape[1] and input_channels_of(model) == 3
        torch.testing.assert_close(logits(new, others), logits(model, pixels), rtol=1e-3, atol=1e-4)
    assert with_input_channels(model, 3) is model


@pytest.mark.parametrize("backbone", ["convnext", "dinov2", "dinov3_vit", "pvt_v2"])
def test_the_layer_is_found_in_other_backbones(backbone, tmp_path):
    model = M2FForUniversalSegmentation(M2FConfig(**SMALL, backbone_config=backbone_fields(backbone)))
    new = with_input_channels(model, 4)
    before, after = model.state_dict(), new.state_dict()
    (changed,) = [name for name in before if before[name].shape != after[name].shape]
    assert all(torch.equal(before[name], after[name]) for name in before if name != changed)
    torch.testing.assert_close(after[changed], before[changed][:, [0, 1, 2, 0]] * 0.75)
    new.save_pretrained(tmp_path)
    again = M2FForUniversalSegmentation.from_pretrained(tmp_path)
    pixels = np.random.default_rng(0).normal(size=(1, 4, 64, 64)).astype(np.float32)
    assert torch.equal(logits(again, pixels), logits(new, pixels))


def test_kernels_are_added_up_or_repeated():
    """The sums of kernels, which equal channels meet, stay for all multiples of three."""
    weight = torch.arange(12.0).view(2, 3, 1, 2)
    assert torch.equal(adapted_weight(weight, 1), weight.sum(1, keepdim=True))
    assert torch.equal(adapted_weight(weight, 2), weight[:, :2] * 1.5)
    torch.testing.assert_close(adapted_weight(weight, 6).sum(1), weight.sum(1))
    assert adapted_weight(weight[:, :1], 5).shape == (2, 5, 1, 2)


def test_a_backbone_that_cannot_be_adapted_is_an_error():
    model = M2FForUniversalSegmentation(M2FConfig(**SMALL, backbone_config=backbone_fields("hgnet_v2")))
    with pytest.raises(ValueError, match="the backbone hgnet_v2 cannot be made for images of 4 channels"):
        with_input_channels(model, 4)
