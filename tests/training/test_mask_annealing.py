"""The schedule of EoMT (Kerssies et al. 2025), and what layers without masks give."""

import pytest
import torch
from shapes_dataset import shapes_options
from small_models import corner_mask, small_model

from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.modeling_m2f.transformer_decoder import attention_mask
from m2f.training.mask_annealing import MaskAnnealing

PIXELS = (2, 3, 64, 96)


def test_masks_fade_out_layer_after_layer_by_a_power(tmp_path):
    options = shapes_options(tmp_path, max_steps=100, mask_annealing=(0.1, 0.7))
    schedule = MaskAnnealing.from_options(options, layers=3)  # from step 10 to 30, 30 to 50, 50 to 70
    assert schedule.shares(0) == schedule.shares(10) == [1, 1, 1]
    assert schedule.shares(15) == [pytest.approx(0.75**0.9), 1, 1]
    assert schedule.shares(45) == [0, pytest.approx(0.25**0.9), 1]
    assert schedule.shares(69) == [0, 0, pytest.approx(0.05**0.9)]
    assert schedule.shares(70) == schedule.shares(99) == [0, 0, 0]
    assert MaskAnnealing.from_options(shapes_options(tmp_path), layers=3) is None


@pytest.mark.parametrize("padded", [False, True])
def test_without_masks_results_are_those_of_masks_that_are_open_everywhere(padded, monkeypatch, tmp_path):
    """In float64; and a saved model goes on predicting so."""
    model = small_model("swin").double()
    pixels = torch.randn(PIXELS, dtype=torch.float64)
    mask = corner_mask((64, 96), [(64, 96), (50, 60)]) if padded else None
    masked = model(pixels, pixel_mask=mask)

    def open_masks(embedding, features, valid):
        rows = torch.ones(*embedding.shape[:2], features.shape[1], dtype=torch.bool)
        return (rows if valid is None else rows & valid[:, None])[:, None]

    with monkeypatch.context() as patch:
        patch.setattr("m2f.modeling_m2f.transformer_decoder.attention_mask", open_masks)
        expected = model(pixels, pixel_mask=mask)
    model.set_mask_shares([0, 0, 0])
    model.save_pretrained(tmp_path)
    found = M2FForUniversalSegmentation.from_pretrained(tmp_path, dtype=torch.float64)
    assert found.config.masked_layers == 0
    for name in ("class_queries_logits", "masks_queries_logits"):
        for other in (model, found):
            torch.testing.assert_close(other(pixels, pixel_mask=mask)[name], expected[name], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(masked.class_queries_logits, expected.class_queries_logits, atol=1e-4)


def test_a_share_of_the_queries_looks_everywhere_while_a_layer_trains_and_none_in_evaluation():
    decoder = small_model("swin", num_queries=400).model.transformer_module.decoder.train()
    embedding, features = torch.randn(2, 400, 32), torch.randn(2, 24, 32)
    valid = torch.ones(2, 24, dtype=torch.bool)
    valid[1, 20:] = False
    keep = decoder._seen(1.0, embedding, features, valid)
    assert torch.equal(keep, attention_mask(embedding, features, valid))
    torch.manual_seed(3)
    seen = decoder._seen(0.25, embedding, features, valid)
    opened = (seen == valid[:, None, None]).all(-1)
    assert 0.68 < float(opened.float().mean()) < 0.82
    assert torch.equal(seen[~opened], keep[~opened])
    assert torch.equal(decoder.eval()._seen(0.25, embedding, features, valid), keep)


def test_layers_whose_masks_are_gone_are_counted_in_the_configuration():
    model = small_model("swin")
    for shares, layers in (([1, 1, 1], None), ([0.3, 1, 1], None), ([0, 0.5, 1], 2), ([0, 0, 0], 0)):
        model.set_mask_shares(shares)
        assert model.config.masked_layers == layers
    with pytest.raises(ValueError, match="masked_layers=7 must be in 0..3"):
        small_model("swin", masked_layers=7)
