"""Normalisation of feature maps by the CPU kernel, against plain PyTorch."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import group_norm

from m2f.modeling_m2f.kernels.group_norm import group_norm_
from m2f.modeling_m2f.normalised_convolution import MaskedGroupNorm
from m2f.modeling_m2f.valid_region import ValidRegion

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")
CHANNELS_LAST = torch.channels_last


def norm_of(channels: int = 48, groups: int = 8, dtype: torch.dtype = torch.float32) -> MaskedGroupNorm:
    torch.manual_seed(0)
    norm = MaskedGroupNorm(groups, channels).requires_grad_(False)
    norm.weight.copy_(torch.randn(channels))
    norm.bias.copy_(torch.randn(channels))
    return norm.to(dtype)


def map_of(*size: int, offset: float = 0.0) -> Tensor:
    return (torch.randn(2, 48, *size) + offset).to(memory_format=CHANNELS_LAST)


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    seen = []
    recorded = lambda *arguments: seen.append(1) or group_norm_(*arguments)  # noqa: E731
    monkeypatch.setattr("m2f.modeling_m2f.normalised_convolution.group_norm_", recorded)
    return seen


def normalised(norm: MaskedGroupNorm, features: Tensor, *arguments) -> Tensor:
    """By the kernel, where it can be: `features` are overwritten then."""
    return norm(features, *arguments, overwrites=True)


# No padding, and images of 2/3 and all of the height, all and half of the width.
VALID = [None, ValidRegion(torch.tensor([[64, 160], [96, 80]]), (96, 160))]


@pytest.mark.parametrize("valid", VALID)
@pytest.mark.parametrize("follows", ["nothing", "relu", "a coarser map"])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_it_is_the_plain_form(valid, follows, offset, calls):
    """`offset`: a mean of 300 standard deviations, where squares of float32 have no digits left for the variance."""
    norm, features = norm_of(), map_of(24, 40, offset=offset)
    coarser = map_of(12, 20) if follows == "a coarser map" else None
    if valid is not None:
        features[0, :, 20:] = torch.nan  # what stands in the padding is not seen
        if coarser is not None:
            coarser[1, :, :, 10:] = torch.nan
    arguments = (valid, coarser, follows == "relu")
    double = None if coarser is None else coarser.double()
    expected = norm_of(dtype=torch.float64)(features.double(), valid, double, arguments[2])
    found = normalised(norm, features, *arguments)
    assert found is features and calls
    # A mean of 300 costs float32 two and a half digits, here and in torch.
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 if offset == 0 else 1e-3)
    if valid is not None:
        assert found[0, :, 16:].eq(0).all() and found[1, :, :, 20:].eq(0).all()


def test_bfloat16(calls):
    norm, features, coarser = norm_of(dtype=torch.bfloat16), map_of(24, 40).bfloat16(), map_of(12, 20).bfloat16()
    expected = norm.float()(features.float(), VALID[1], coarser.float())
    found = normalised(norm.bfloat16(), features, VALID[1], coarser)
    torch.testing.assert_close(found.float(), expected, rtol=2**-8, atol=2**-8)  # one rounding
    assert calls and found.dtype == torch.bfloat16


@pytest.mark.parametrize("size", [(7, 9), (12, 20), (1, 1), (24, 40)])
def test_any_coarser_size(size, calls):
    norm, features, coarser = norm_of(), map_of(24, 40), map_of(*size)
    expected = norm(features, None, coarser)
    torch.testing.assert_close(normalised(norm, features, None, coarser), expected, rtol=0, atol=1e-5)
    assert calls


def test_threads_change_nothing():
    norm, features, threads = norm_of(), map_of(200, 30), torch.get_num_threads()
    found = normalised(norm, features.clone(memory_format=CHANNELS_LAST), None)
    try:
        torch.set_num_threads(threads + 6)
        assert torch.equal(normalised(norm, features, None), found)
    finally:
        torch.set_num_threads(threads)


def test_not_finite_numbers_are_seen_in_their_group_alone(calls):
    norm, features = norm_of(), map_of(24, 40)
    features[0, 0, 5, 5] = torch.inf
    found = normalised(norm, features, None, None, True)
    assert found[0, :6].isnan().all() and found[0, 6:].isfinite().all() and found[1].isfinite().all() and calls


def test_others_are_plain(calls, monkeypatch):
    norm, features = norm_of(), map_of(24, 40)
    assert normalised(norm, features.clone().requires_grad_(), None).requires_grad
    assert normalised(norm, features.contiguous(), None) is not features
    assert normalised(norm.double(), features.double(), None).dtype == torch.float64
    norm.float().requires_grad_()
    assert normalised(norm, features, None).requires_grad
    norm.requires_grad_(False)
    monkeypatch.setenv("M2F_KERNELS", "reference")
    assert normalised(norm, features, None) is not features and not calls


def test_masked_group_norm_is_group_norm_of_the_valid_part():
    norm = MaskedGroupNorm(2, 4)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    features = torch.randn(2, 4, 6, 8)
    valid = ValidRegion(torch.tensor([[24, 17], [9, 32]]), (24, 32))  # stride 4: 6 x 5 and 3 x 8 cells
    result = norm(features, valid)
    for image, normalised, (rows, columns) in zip(features, result, [(6, 5), (3, 8)], strict=True):
        expected = group_norm(image[None, :, :rows, :columns], 2, norm.weight, norm.bias)[0]
        torch.testing.assert_close(normalised[:, :rows, :columns], expected)
        assert normalised[:, rows:].abs().sum() == 0 and normalised[:, :, columns:].abs().sum() == 0
