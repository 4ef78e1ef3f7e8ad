"""The two ways to compute attention."""

import torch
from small_models import small_model


@torch.no_grad()
def test_eager_attention_and_sdpa_agree():
    model, pixels = small_model("swin"), torch.randn(2, 3, 64, 96)
    model.set_attn_implementation("sdpa")
    expected = model(pixels).masks_queries_logits
    torch.testing.assert_close(model(pixels, output_attentions=True).masks_queries_logits, expected)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(pixels).masks_queries_logits, expected)
