"""Weights quantised by torchao while they are loaded; `scripts/test_integrations.sh` installs it."""

import pytest
import torch

pytest.importorskip("torchao")

from small_models import small_model  # noqa: E402
from torchao.quantization import Int8WeightOnlyConfig  # noqa: E402
from transformers import AutoModelForUniversalSegmentation, TorchAoConfig  # noqa: E402


@torch.no_grad()
def test_a_checkpoint_is_loaded_in_eight_bits(tmp_path):
    model = small_model("swin", encoder_layers=1, decoder_layers=2).eval()
    model.save_pretrained(tmp_path)
    config = TorchAoConfig(Int8WeightOnlyConfig())
    loaded = AutoModelForUniversalSegmentation.from_pretrained(tmp_path, quantization_config=config).eval()
    quantized = [name for name, weight in loaded.named_parameters() if type(weight) is not torch.nn.Parameter]
    pixels = torch.randn(1, 3, 64, 96)
    found, expected = loaded(pixels), model(pixels)
    difference = (found.class_queries_logits - expected.class_queries_logits).abs().max()
    assert quantized and 0 < difference < 0.05 * expected.class_queries_logits.abs().max()
