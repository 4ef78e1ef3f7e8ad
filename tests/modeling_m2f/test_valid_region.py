"""Cells of an image, and what stands beside them."""

import torch

from m2f.modeling_m2f.valid_region import ValidRegion, replicate_edge


def test_replicate_edge_repeats_the_last_valid_row_and_column():
    features = torch.arange(12.0).view(1, 1, 3, 4)
    valid = ValidRegion(torch.tensor([[8, 8]]), (12, 16))
    assert replicate_edge(features, valid)[0, 0].tolist() == [[0, 1, 1, 1], [4, 5, 5, 5], [4, 5, 5, 5]]
