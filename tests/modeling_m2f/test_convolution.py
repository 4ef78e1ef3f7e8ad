"""3x3 convolutions by Winograd's method, against torch's in float64."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

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
    return torchs_layer(conv).to(x.dtype)(x)


def torchs_layer(conv: Conv3x3) -> nn.Conv2d:
    plain = copy.deepcopy(conv)
    plain.__class__ = nn.Conv2d
    return plain


@pytest.fixture
def calls(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes that Winograd's method was used for."""
    shapes = []

    def recorded(image, *others):
        shapes.append(image.shape)
        return split_tiles(image, *others)

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


@pytest.mark.parametrize("size", [(64, 64), (70, 94), (200, 66)])
@pytest.mark.parametrize("channels", [(24, 40), (3, 5)])
def test_gradients_are_those_of_the_convolution(size, channels, calls):
    conv, x = conv_of(*channels).requires_grad_(), torch.randn(2, channels[0], *size, requires_grad=True)
    assert type(conv(x).grad_fn).__name__ != "ConvolutionBackward0"
    grad = torch.randn(2, channels[1], *size)
    double = (x.detach().double().requires_grad_(), conv.weight.detach().double().requires_grad_())
    expected = torch.autograd.grad(torch.nn.functional.conv2d(*double, padding=1), double, grad.double())
    for given in (grad, grad.to(memory_format=torch.channels_last)):
        grad_x, grad_weight = torch.autograd.grad(conv(x), (x, conv.weight), given)
        torch.testing.assert_close(grad_x.double(), expected[0], rtol=0, atol=2e-5)
        # Sums of 8,000 to 26,000 products, of size 100 to 160.
        torch.testing.assert_close(grad_weight.double(), expected[1], rtol=0, atol=1e-2)
    assert calls
    # Of one alone.
    conv.weight.requires_grad_(False)
    torch.testing.assert_close(torch.autograd.grad(conv(x), x, grad)[0], grad_x)
    conv.weight.requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(conv(x.detach()), conv.weight, grad)[0], grad_weight)


@pytest.mark.parametrize(("capability", "is_laid_out"), [("AVX2", True), ("AVX512", False)])
def test_small_maps_lie_as_their_gradients_are_fast(capability, is_laid_out, monkeypatch):
    monkeypatch.setattr("m2f.modeling_m2f.convolution.get_cpu_capability", lambda: capability)
    conv, seen = conv_of().requires_grad_(), []
    monkeypatch.setattr(conv, "_conv_forward", lambda x, *others: seen.append(x.is_contiguous()) or x)
    x = torch.randn(1, 24, 60, 60).to(memory_format=torch.channels_last)
    conv(x)
    with torch.no_grad():
        conv(x)
    assert seen == [is_laid_out, False]


def test_gradients_of_gradients():
    conv, x = conv_of(3, 5).requires_grad_(), torch.randn(1, 3, 64, 64, requires_grad=True)
    found, expected = [], []
    for layer, to in ((conv, found), (torchs_layer(conv), expected)):
        grads = torch.autograd.grad(layer(x).square().sum(), (x, layer.weight), create_graph=True)
        to += torch.autograd.grad(sum(grad.square().sum() for grad in grads), (x, layer.weight))
    for own, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


def test_forward_derivatives():
    """With PyTorch's own convolution, which knows them."""
    conv, x = conv_of(3, 5), torch.randn(1, 3, 64, 64)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(conv(forward_ad.make_dual(x, x))).tangent
    torch.testing.assert_close(tangent, conv(x), rtol=0, atol=2e-5)


def test_small_maps_and_the_switch_are_torchs(calls, monkeypatch):
    conv, x = conv_of(), torch.randn(1, 24, 64, 64)
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
