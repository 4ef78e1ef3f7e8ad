"""`pixel_mask`: padding never reaches an image; an image gives the same result in every batch."""

import pytest
import torch
from small_models import corner_mask, small_model
from torch.nn.functional import pad

CANVAS = (128, 160)


SIZES = [(128, 96), (75, 160), (52, 61)]


def noise_in_padding(features: torch.Tensor, sizes, fill: float) -> torch.Tensor:
    """`features` with `fill` times noise in every cell that covers no real pixel."""
    height, width = features.shape[-2:]
    changed = features.clone()
    for image, (h, w) in zip(changed, sizes, strict=True):
        rows, columns = -(-h * height // CANVAS[0]), -(-w * width // CANVAS[1])
        noise = fill * torch.randn_like(image) if fill == fill else torch.full_like(image, fill)
        image[:, rows:] = noise[:, rows:]
        image[:, :, columns:] = noise[:, :, columns:]
    return changed


def valid_cells(masks: torch.Tensor, sizes) -> list[torch.Tensor]:
    return [image[:, : -(-h // 4), : -(-w // 4)] for image, (h, w) in zip(masks, sizes, strict=True)]


@torch.no_grad()
@pytest.mark.parametrize("fill", [1e4, float("nan")])
@pytest.mark.parametrize("place", ["encoder", "decoder"])
def test_reference_row_42_values_in_the_padding_change_no_valid_output(place, fill):
    """Not by rounding either: bit for bit. `encoder`: the backbone's maps; `decoder`: the pixel decoder's outputs."""
    model = small_model("resnet")
    pixels = torch.randn(3, 3, *CANVAS)
    mask = corner_mask(CANVAS, SIZES)
    expected = model(pixels, pixel_mask=mask, output_auxiliary_logits=True)

    def disturb(module, args, output):
        if place == "encoder":
            output.feature_maps = tuple(noise_in_padding(x, SIZES, fill) for x in output.feature_maps)
        else:
            output.mask_features = noise_in_padding(output.mask_features, SIZES, fill)
            maps = [noise_in_padding(x, SIZES, fill) for x in output.multi_scale_features]
            output.multi_scale_features = tuple(maps)
        return output

    hook = getattr(model.model.pixel_level_module, place).register_forward_hook(disturb)
    actual = model(pixels, pixel_mask=mask, output_auxiliary_logits=True)
    hook.remove()
    assert torch.equal(actual.class_queries_logits, expected.class_queries_logits)
    for before, after in zip([expected, *expected.auxiliary_logits], [actual, *actual.auxiliary_logits], strict=True):
        assert torch.equal(after["class_queries_logits"], before["class_queries_logits"])
        masks = (valid_cells(x["masks_queries_logits"], SIZES) for x in (before, after))
        assert all(torch.equal(*pair) for pair in zip(*masks, strict=True))
    decoded = (valid_cells(x.pixel_decoder_last_hidden_state, SIZES) for x in (expected, actual))
    assert place == "decoder" or all(torch.equal(*pair) for pair in zip(*decoded, strict=True))


@torch.no_grad()
def test_reference_row_42_an_image_gives_the_same_result_in_every_batch():
    """Behind the backbone, which sees padding: its maps are made from each image alone, then padded."""
    model = small_model("resnet")
    encoder = model.model.pixel_level_module.encoder
    images = [torch.randn(1, 3, *size) for size in SIZES]
    maps = [encoder(pad(x, (0, -x.shape[-1] % 32, 0, -x.shape[-2] % 32))).feature_maps for x in images]

    def batched(module, args, output):
        for i, (features, stride) in enumerate(zip(output.feature_maps, (4, 8, 16, 32), strict=True)):
            features.fill_(7.0)
            for image, own, (h, w) in zip(features, maps, SIZES, strict=True):
                rows, columns = -(-h // stride), -(-w // stride)
                image[:, :rows, :columns] = own[i][0, :, :rows, :columns]
        return output

    hook = encoder.register_forward_hook(batched)
    batch = model(torch.randn(3, 3, *CANVAS), pixel_mask=corner_mask(CANVAS, SIZES))
    hook.remove()
    for i, (image, (h, w)) in enumerate(zip(images, SIZES, strict=True)):
        padded = pad(image, (0, -w % 32, 0, -h % 32))
        alone = model(padded, pixel_mask=corner_mask(tuple(padded.shape[-2:]), [(h, w)]))
        torch.testing.assert_close(batch.class_queries_logits[i], alone.class_queries_logits[0], atol=2e-5, rtol=1e-5)
        cells = slice(None), slice(-(-h // 4)), slice(-(-w // 4))
        both = batch.masks_queries_logits[i][cells], alone.masks_queries_logits[0][cells]
        torch.testing.assert_close(*both, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_a_mask_without_padding_changes_nothing():
    model, pixels = small_model("swin"), torch.randn(2, 3, 64, 96)
    without, with_mask = model(pixels), model(pixels, pixel_mask=torch.ones(2, 64, 96))
    assert torch.equal(without.masks_queries_logits, with_mask.masks_queries_logits)


@torch.no_grad()
def test_the_path_for_padding_agrees_with_the_path_without_where_there_is_none(monkeypatch):
    """The masked group norm, masks and edges, run over maps that are valid everywhere."""
    model, pixels = small_model("resnet"), torch.randn(2, 3, 64, 96)
    expected = model(pixels).masks_queries_logits
    monkeypatch.setattr("m2f.modeling_m2f.modeling_m2f.has_padding", lambda pixel_mask: True)
    masked = model(pixels, pixel_mask=torch.ones(2, 64, 96)).masks_queries_logits
    torch.testing.assert_close(masked, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_that_the_model_adds_is_masked_too():
    model, pixels = small_model("resnet"), torch.randn(1, 3, 50, 70)
    inside = model(pixels, pixel_mask=torch.ones(1, 50, 70)).masks_queries_logits
    padded = pad(pixels, (0, 26, 0, 14))
    outside = model(padded, pixel_mask=corner_mask((64, 96), [(50, 70)])).masks_queries_logits
    assert torch.equal(inside, outside) and not torch.equal(inside, model(padded).masks_queries_logits)


def test_valid_sizes_are_those_of_the_mask():
    outputs = small_model("resnet")(torch.randn(3, 3, *CANVAS), pixel_mask=corner_mask(CANVAS, SIZES))
    assert outputs.valid_sizes.tolist() == [list(size) for size in SIZES]
