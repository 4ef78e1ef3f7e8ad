"""3x3 convolutions by Winograd's method, against torch's in float64."""

import copy

import pytest
import torch
from torch import nn

from m2f.modeling_m2f.convolution import Conv3x3
from m2f.modeling_m2f.kernels.winograd import split_tiles
from m2f.modeling_m2f.linear import onednn_linear

pytest_plugins = ("kernel_fixtures",)
pytestmark = [
    pytest.mark.usefixtures("compiled_kernel"),
    pytest.mark.skipif(onednn_linear() is None, reason="oneDNN's products are not to be had"),
]


def conv_of(channels: int = 24, out_channels: int = 40, **options) -> Conv3x3:
    torch.manual_seed(0)
    return Conv3x3(channels, out_channels, 3, padding=1, **{"bias": False, **options}).requires_grad_(False)


def torchs(conv: Conv3x3, x: torch.Tensor) -> torch.Tensor:
    """torch's own convolution with the same weights, in the type of x."""
    plain = copy.deepcopy(conv)
    plain.__class__ = nn.Conv2d
    return plain.to(x.dtype)(x)


@pytest.fixture
def calls(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes that Winograd's method was used for."""
    shapes = []

    def recorded(image, *others):
        shapes.append(image.shape)
        split_tiles(image, *others)

    monkeypatch.setattr("m2f.modeling_m2f.kernels.winograd.split_tiles", recorded)
    return shapes


# Edges with all remainders by 4, one block of tiles and several, channels that are no multiple of a vector, and a map
# of few columns.
@pytest.mark.parametrize("size", [(64, 64), (65, 67), (70, 94), (200, 336), (512, 9)])
@pytest.mark.parametrize("channels", [(24, 40), (16, 16), (3, 5)])
def test_it_is_the_convolution(size, channels, calls):
    conv, x = conv_of(*channels), torch.randn(2, channels[0], *size)
    for image in (x, x.to(memory_format=torch.channels_last)):
        found = conv(image)
        expected = torchs(conv, x.double())
        # Results are of size 1; a wrong factor of a transform would be seen in the first digit.
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)
        assert found.is_contiguous(memory_format=torch.channels_last)
    assert calls


def test_rounding():
    """With 256 channels the standard error was 1.2e-6 (torch's own: 1.3e-7 to 5e-7), where results are of size 0.6."""
    conv, x = conv_of(256, 256), torch.randn(1, 256, 64, 64)
    found = conv(x)
    assert (found - torchs(conv, x.double())).std() < 2e-6


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({"bias": True}, torch.float32), ({"groups": 8}, torch.float32), ({"stride": 2}, torch.float32)]
    + [({"dilation": 2, "padding": 2}, torch.float32), ({"padding_mode": "reflect"}, torch.float32)]
    + [({}, torch.float64), ({}, torch.bfloat16)],
)
def test_others_are_torchs(options, dtype, calls, monkeypatch):
    # A processor with instructions for bfloat16; without, see test_wide_products.py.
    monkeypatch.setattr("m2f.modeling_m2f.convolution.product_dtype", lambda dtype: dtype)
    torch.manual_seed(0)
    conv = Conv3x3(24, 40, 3, **{"padding": 1, "bias": False, **options}).to(dtype).requires_grad_(False)
    x = torch.randn(1, 24, 64, 64, dtype=dtype)
    assert torch.equal(conv(x), torchs(conv, x)) and not calls


def test_gradients_small_maps_and_the_switch_are_torchs(calls, monkeypatch):
    conv, x = conv_of(), torch.randn(1, 24, 64, 64)
    assert conv(x.clone().requires_grad_()).requires_grad
    assert torch.equal(conv(x[..., :63]), torchs(conv, x[..., :63]))
    monkeypatch.setenv("M2F_KERNELS", "reference")
    assert torch.equal(conv(x), torchs(conv, x)) and not calls


def test_values_that_are_not_finite_stay_near(calls):
    """A NaN reaches the outputs that see it, and of the others those of its tiles alone."""
    conv, x = conv_of(16, 16), torch.randn(1, 16, 64, 64)
    x[0, :, 33, 33] = torch.nan
    found = conv(x)[0]
    assert found[:, 32:35, 32:35].isnan().all()
    assert found[:, :28].isfinite().all() and found[:, 40:].isfinite().all() and calls
