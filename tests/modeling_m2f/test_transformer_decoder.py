"""Masks, blocks and outputs of the Transformer decoder."""

import torch
from small_models import small_model
from torch import nn

from m2f.modeling_m2f.transformer_decoder import attention_mask


def test_reference_row_37_hidden_states_and_both_attentions_are_returned_when_asked():
    model, pixels = small_model("swin"), torch.randn(2, 3, 64, 96)
    outputs = model(pixels)
    for name in ("hidden_states", "pixel_decoder_hidden_states", "attentions", "cross_attentions", "auxiliary_logits"):
        assert outputs[name] is None if name in outputs else getattr(outputs, name) is None
    outputs = model(pixels, output_hidden_states=True, output_attentions=True, output_auxiliary_logits=True)
    assert [tuple(x.shape) for x in outputs.attentions] == [(2, 4, 8, 8)] * 3
    assert [tuple(x.shape) for x in outputs.cross_attentions] == [(2, 4, 8, 6), (2, 4, 8, 24), (2, 4, 8, 96)]
    assert [tuple(x.shape) for x in outputs.transformer_decoder_hidden_states] == [(2, 8, 32)] * 4
    assert [tuple(x.shape[-2:]) for x in outputs.pixel_decoder_hidden_states] == [(2, 3), (4, 6), (8, 12)]
    assert len(outputs.encoder_hidden_states) == 4 and len(outputs.auxiliary_logits) == 3
    torch.testing.assert_close(outputs.cross_attentions[0].sum(-1), torch.ones(2, 4, 8))


def test_attention_mask_keeps_foreground_and_resets_empty_rows():
    embedding = torch.tensor([[[1.0], [-1.0], [0.0]]])  # (1, 3, 1)
    features = torch.tensor([[[2.0], [-3.0], [0.0], [-1.0]]])  # (1, 4, 1)
    # sigmoid(logit) < 0.5 is masked: logits (2,-3,0,-1), (-2,3,0,1), (0,0,0,0)
    expected = [[True, False, True, False], [False, True, True, True], [True, True, True, True]]
    assert attention_mask(embedding, features, None)[0, 0].tolist() == expected
    # with the third cell padding, the first query's only foreground is the first cell; a query without foreground in
    # the image sees all of the image and nothing of the padding
    valid = torch.tensor([[False, True, False, True]])
    expected = [[False, True, False, True], [False, True, False, True], [False, True, False, True]]
    assert attention_mask(embedding, features, valid)[0, 0].tolist() == expected


def test_pre_norm_normalises_before_each_block():
    model = small_model("resnet", pre_norm=True)
    layer = model.model.transformer_module.decoder.layers[0]
    # Blocks that add nothing but a constant leave the input's scale alone only if no norm follows them.
    for last in (layer.cross_attn.out_proj, layer.self_attn.out_proj, layer.fc2):
        nn.init.zeros_(last.weight)
        nn.init.ones_(last.bias)
    seen = []
    for block in (layer.cross_attn, layer.self_attn, layer.fc1):
        block.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    hidden, features = 5 + torch.randn(1, 8, 32), torch.randn(1, 6, 32)
    keep = torch.ones(1, 1, 8, 6, dtype=torch.bool)
    out, _, _ = layer(hidden, torch.zeros(1, 8, 32), features, torch.zeros(1, 6, 32), keep)
    torch.testing.assert_close(out, hidden + 3)
    for x in seen:
        torch.testing.assert_close(x.mean(-1), torch.zeros(1, 8), atol=1e-5, rtol=0)
