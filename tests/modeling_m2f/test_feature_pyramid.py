"""The feature pyramid of plain Vision Transformers against its definition, and where its cells lie."""

import pytest
import torch
from backbone_cases import backbone_fields
from small_models import corner_mask, small_config, small_model
from torch.nn.functional import interpolate, pad
from transformers import (
    BeitConfig,
    BeitModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from m2f.modeling_m2f.feature_pyramid import FeaturePyramid
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.modeling_m2f.valid_region import ValidRegion
from m2f.training.parameter_groups import parameter_groups

STRIDES = [4, 8, 16, 32]


def deconvolved(x: torch.Tensor, layer: torch.nn.ConvTranspose2d) -> torch.Tensor:
    """Every cell becomes 2 x 2 cells, a product of its channels each."""
    cells = torch.einsum("bchw,cdij->bdhiwj", x, layer.weight) + layer.bias[:, None, None, None, None]
    return cells.flatten(4, 5).flatten(2, 3)


def normalised(x: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    centred = x - x.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


def convolved(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    height, width = x.shape[-2:]
    around = pad(x, (1, 1, 1, 1))
    shifts = [around[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.einsum("kbchw,dck->bdhw", torch.stack(shifts), weight.flatten(2))


def reference(pyramid: FeaturePyramid, x: torch.Tensor) -> list[torch.Tensor]:
    """ViTDet's section 3 for patches of 16 pixels, in plain sums."""
    quadruple, double, _, _ = (level.upsampling for level in pyramid.levels)
    once = torch.nn.functional.gelu(normalised(deconvolved(x, quadruple[0]), quadruple[1]))
    pairs = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    resized = [deconvolved(once, quadruple[3]), deconvolved(x, double[0]), x, pairs.amax((3, 5))]
    maps = []
    for features, level in zip(resized, pyramid.levels, strict=True):
        features = torch.einsum("bchw,dc->bdhw", features, level.projection.weight[..., 0, 0])
        features = convolved(normalised(features, level.projection_norm), level.output.weight)
        maps.append(normalised(features, level.output_norm))
    return maps


def filled(pyramid: torch.nn.Module) -> torch.nn.Module:
    for parameter in pyramid.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return pyramid


def test_levels_are_those_of_the_paper():
    torch.manual_seed(0)
    pyramid = filled(FeaturePyramid([8], 6, 16, STRIDES)).double()
    x = torch.randn(2, 8, 4, 6, dtype=torch.float64)
    expected, actual = reference(pyramid, x), pyramid((x,))
    assert [tuple(y.shape) for y in actual] == [(2, 6, 16, 24), (2, 6, 8, 12), (2, 6, 4, 6), (2, 6, 2, 3)]
    for level, own in zip(actual, expected, strict=True):
        torch.testing.assert_close(level, own, atol=1e-12, rtol=1e-12)
    others = tuple(torch.randn_like(x) for _ in range(4))
    four = filled(FeaturePyramid([8] * 4, 6, 16, STRIDES)).double()
    for i, level in enumerate(four(others)):
        torch.testing.assert_close(level, reference(four, others[i])[i], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("patch", "expected"), [(8, [2, 1, 1, 1]), (14, [4, 2, 1, 1]), (32, [8, 4, 2, 1])])
def test_other_patches_have_the_same_strides(patch, expected):
    pyramid = FeaturePyramid([16], 4, patch, STRIDES)
    pixels = pyramid.resized(torch.zeros(1, 3, 64, 96))
    x = torch.randn(1, 16, pixels.shape[2] // patch, pixels.shape[3] // patch)
    assert [tuple(y.shape[2:]) for y in pyramid((x,))] == [(64 // s, 96 // s) for s in STRIDES]
    doublings = [sum(isinstance(m, torch.nn.ConvTranspose2d) for m in level.upsampling) for level in pyramid.levels]
    assert [2**n for n in doublings] == expected


def test_gradients_are_those_of_finite_differences_and_padding_gets_none():
    torch.manual_seed(0)
    pyramid = filled(FeaturePyramid([4], 2, 16, STRIDES)).double()
    x = torch.randn(2, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    valid = ValidRegion(torch.tensor([[32, 32], [12, 30]]), (32, 32))

    def levels(x: torch.Tensor, weight: torch.Tensor):
        weights = {"levels.0.upsampling.0.weight": weight}
        return torch.func.functional_call(pyramid, weights, ((x,), valid))

    weight = pyramid.levels[0].upsampling[0].weight
    assert torch.autograd.gradcheck(levels, (x, weight.detach().requires_grad_()))
    height = [-(-12 // stride) for stride in STRIDES]
    maps = pyramid((x,), valid)
    seen = sum(level[1, :, :rows].square().sum() for level, rows in zip(maps, height, strict=True))
    (gradient,) = torch.autograd.grad(seen, x)
    assert gradient[1, :, 0].any() and not gradient[1, :, 1:].any() and not gradient[0].any()


@torch.no_grad()
@pytest.mark.parametrize("fill", [1e4, float("nan")])
def test_values_in_the_padding_change_no_valid_cell(fill):
    torch.manual_seed(0)
    pyramid, size = filled(FeaturePyramid([8], 6, 16, STRIDES)), (50, 61)
    valid = ValidRegion(torch.tensor([size]), (96, 128))
    x = torch.randn(1, 8, 6, 8)
    disturbed = torch.full_like(x, fill)
    disturbed[..., :4, :4] = x[..., :4, :4]
    for before, after, stride in zip(pyramid((x,), valid), pyramid((disturbed,), valid), STRIDES, strict=True):
        cells = ..., slice(-(-size[0] // stride)), slice(-(-size[1] // stride))
        assert torch.equal(before[cells], after[cells])
        assert not torch.equal(pyramid((x,))[STRIDES.index(stride)][cells], before[cells])  # padding seen


@torch.no_grad()
def test_a_cell_of_a_patch_of_14_lies_where_its_16_pixels_are():
    """The patch embedding of an image that is black but for one cell's pixels."""
    model = small_model(backbone_config=backbone_fields("dinov2"), encoder_layers=1, decoder_layers=2)
    level = model.model.pixel_level_module
    pixels = torch.zeros(1, 3, 64, 96)
    pixels[..., 16:32, 64:80] = 1
    projection = level.encoder.embeddings.patch_embeddings.projection
    changed = (projection(level.feature_pyramid.resized(pixels)) - projection.bias[:, None, None]).abs().amax(1)[0]
    assert divmod(int(changed.argmax()), 6) == (1, 4)
    changed[1, 4] = 0
    assert changed.max() < 0.2 * projection(torch.ones(1, 3, 14, 14)).abs().max()


@torch.no_grad()
@pytest.mark.parametrize("name", ["dinov2", "vitdet", "beit"])
def test_positions_at_an_odd_size_are_those_of_transformers(name):
    """Its backbone interpolates them itself; an input of 50 x 70 has 4 x 6 patches."""
    model = small_model(backbone_config=backbone_fields(name), encoder_layers=1, decoder_layers=2)
    level, pixels = model.model.pixel_level_module, torch.randn(1, 3, 50, 70)
    kept = []
    hook = level.encoder.register_forward_hook(
        lambda module, args, output: kept.append((args[0], output.feature_maps))
    )
    model(pixels)
    hook.remove()
    patch = 14 if name == "dinov2" else 16
    resized = interpolate(pad(pixels, (0, 26, 0, 14)), size=(4 * patch, 6 * patch), mode="bilinear")
    torch.testing.assert_close(kept[0][0], resized)
    for actual, expected in zip(kept[0][1], level.encoder(resized).feature_maps, strict=True):
        torch.testing.assert_close(actual, expected)
    if name == "dinov2":
        embeddings = level.encoder.embeddings
        own = embeddings.position_embeddings[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
        expected = interpolate(own, size=(4, 6), mode="bicubic").flatten(2).transpose(1, 2)
        patches = embeddings.patch_embeddings(resized)
        torch.testing.assert_close(embeddings(kept[0][0])[:, 1:], patches + expected)


@pytest.mark.parametrize(
    ("kind", "config_class", "name"),
    [
        (Dinov2ForImageClassification, Dinov2Config, "dinov2"),
        (DINOv3ViTModel, DINOv3ViTConfig, "dinov3_vit"),
        (BeitModel, BeitConfig, "beit"),
    ],
)
def test_pretrained_weights_fill_the_transformer_and_no_more(kind, config_class, name, tmp_path):
    fields = {key: value for key, value in backbone_fields(name).items() if key != "model_type"}
    pretrained = kind(config_class(**fields))
    pretrained.save_pretrained(tmp_path)
    config = small_config(backbone_config=backbone_fields(name), encoder_layers=1, decoder_layers=2)
    model = M2FForUniversalSegmentation.from_pretrained_backbone(str(tmp_path), config)
    given = {
        key.split(".", 1)[-1] if kind is not DINOv3ViTModel else key: x for key, x in pretrained.state_dict().items()
    }
    state = model.model.pixel_level_module.encoder.state_dict()
    own = {key.removeprefix("beit."): x for key, x in state.items()}
    given = given if kind is not BeitModel else pretrained.state_dict()
    shared = own.keys() & given.keys()
    assert len(shared) > 0.9 * len(own) and all(torch.equal(own[key], given[key]) for key in shared)


def test_the_pyramid_learns_with_the_rate_of_the_head():
    model = small_model(backbone_config=backbone_fields("dinov3_vit"), encoder_layers=1, decoder_layers=2)
    rates = {id(p): g["lr"] for g in parameter_groups(model, 1.0, 0.1) for p in g["params"]}
    level = model.model.pixel_level_module
    assert {rates[id(p)] for p in level.feature_pyramid.parameters()} == {1.0}
    assert {rates[id(p)] for p in level.encoder.parameters()} == {0.1}
    assert "FeaturePyramid" in model.model._no_split_modules
    outputs = model(torch.randn(1, 3, 40, 40), pixel_mask=corner_mask((40, 40), [(40, 40)]))
    assert outputs.masks_queries_logits.shape[-2:] == (16, 16)
