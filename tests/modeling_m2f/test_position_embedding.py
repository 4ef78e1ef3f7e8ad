"""Sines against their formula."""

import math

import torch

from m2f.modeling_m2f.position_embedding import sine_position_embedding


def test_position_embedding_against_the_formula():
    """DETR's formula, written out: normalised coordinate times 2 pi over 10000^(2i / (C/2)), sine and cosine in turn,
    rows before columns."""
    height, width, channels = 3, 5, 8
    embedding = sine_position_embedding((height, width), channels, torch.device("cpu"))[0].view(
        height, width, channels
    )
    for row, column, half in [(0, 0, 0), (2, 4, 0), (1, 3, 1), (2, 0, 1)]:
        coordinate = ((row + 1) / (height + 1e-6), (column + 1) / (width + 1e-6))[half] * 2 * math.pi
        angles = [coordinate / 10000 ** (2 * i / 4) for i in range(2)]
        expected = [f(angle) for angle in angles for f in (math.sin, math.cos)]
        actual = embedding[row, column, half * 4 : half * 4 + 4]
        torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-6, rtol=1e-6)
