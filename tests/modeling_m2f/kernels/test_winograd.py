"""The CPU kernel of Winograd's transforms, around products of torch, against torch's convolution in float64."""

import pytest
import torch
from torch.nn.functional import conv2d
from torch.nn.grad import conv2d_weight

from m2f.modeling_m2f.kernels.winograd import (
    PRODUCTS,
    WINOGRAD,
    convolve_tiles,
    gradient_of_weight,
    join_tiles,
    room_for_tiles,
    split_tiles,
    split_weight,
)

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")


# Edges with all remainders by 4, a map of one cell, one block of tiles and several, channels around a vector of 16.
@pytest.mark.parametrize("size", [(1, 1), (4, 5), (18, 7), (11, 12), (130, 101)])
@pytest.mark.parametrize("channels", [(3, 5), (16, 16), (24, 40)])
def test_it_is_the_convolution(size, channels):
    torch.manual_seed(0)
    x, weight = torch.randn(2, channels[0], *size), torch.randn(channels[1], channels[0], 3, 3) / channels[0] ** 0.5
    rows = []
    assert WINOGRAD.runs_on(x.device)
    found = convolve_tiles(x, weight, lambda w, count: rows.append(count) or w.t().contiguous(), torch.matmul)
    # Results are of size 3; a wrong factor of a transform would be seen in the first digit.
    torch.testing.assert_close(found.double(), conv2d(x.double(), weight.double(), padding=1), rtol=0, atol=1e-4)
    assert found.is_contiguous(memory_format=torch.channels_last) and len(rows) == PRODUCTS
    grad = torch.randn_like(found)
    expected = conv2d_weight(x.double(), weight.shape, grad.double(), padding=1)
    # Sums of up to 26,000 products, of size 160.
    torch.testing.assert_close(gradient_of_weight(x, grad).double(), expected, rtol=1e-4, atol=2e-3)


def test_rows_of_tiles_are_those_of_the_whole_map():
    """Split and joined in two parts, of which the second has fewer rows."""
    torch.manual_seed(0)
    image, weights = torch.randn(11, 9, 4), split_weight(torch.randn(6, 4, 3, 3))
    results = []
    for parts in ([(0, 3)], [(0, 2), (2, 1)]):
        room, out = room_for_tiles(image, [0, parts[0][1]]), torch.empty(11, 9, 6)
        for first, rows in parts:
            tiles = split_tiles(image, first, rows, room)
            join_tiles([tile @ w.t() for tile, w in zip(tiles, weights, strict=True)], out, first, rows)
        results.append(out)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
