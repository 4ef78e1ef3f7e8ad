"""The CPU kernel of group normalisation, against torch's in float64 on the valid part of each image alone."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import group_norm, interpolate, pad, relu

from m2f.modeling_m2f.kernels.group_norm import GROUP_NORM, group_norm_

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")
GROUPS, EPS, SIZE, COARSE = 4, 1e-5, (13, 18), (5, 9)
# Valid rows and columns of two images, of the map and of the coarser one, whose last cells are seen beyond them.
PARTS = {"all": ([13, 13], [18, 18], [5, 5], [9, 9]), "some": ([13, 4], [7, 18], [5, 1], [3, 9])}


def map_of(size: tuple[int, int], channels: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(2, channels, *size).to(dtype).contiguous(memory_format=torch.channels_last)


def expected(features: Tensor, weight: Tensor, bias: Tensor, parts, coarser: Tensor | None, is_relu: bool) -> Tensor:
    out = torch.zeros_like(features)
    for image, (rows, columns, coarse_rows, coarse_columns) in enumerate(zip(*parts, strict=True)):
        part = group_norm(features[image : image + 1, :, :rows, :columns], GROUPS, weight, bias, EPS)
        if coarser is not None:
            seen = coarser[image : image + 1, :, :coarse_rows, :coarse_columns]
            beyond = (0, COARSE[1] - coarse_columns, 0, COARSE[0] - coarse_rows)
            resized = interpolate(pad(seen, beyond, "replicate"), SIZE, mode="bilinear", align_corners=False)
            part = part + resized[..., :rows, :columns]
        out[image, :, :rows, :columns] = relu(part) if is_relu else part
    return out


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)])
@pytest.mark.parametrize("valid", PARTS)
@pytest.mark.parametrize("follows", ["nothing", "relu", "a coarser map"])
@pytest.mark.parametrize("channels", [32, 20])
def test_it_is_the_norm_of_each_valid_part(channels, follows, valid, dtype, tolerance):
    torch.manual_seed(0)
    features, weight, bias = map_of(SIZE, channels, dtype), torch.randn(channels), torch.randn(channels)
    coarser = map_of(COARSE, channels, dtype) if follows == "a coarser map" else None
    wide = None if coarser is None else coarser.double()
    wanted = expected(features.double(), weight.double(), bias.double(), PARTS[valid], wide, follows == "relu")
    rows, columns, *coarse = map(torch.tensor, PARTS[valid])
    cells = (None, None) if valid == "all" else ((rows, columns), tuple(coarse))
    assert GROUP_NORM.runs_on(features.device, dtype)
    group_norm_(features, GROUPS, weight, bias, EPS, cells[0], coarser, cells[1], follows == "relu")
    torch.testing.assert_close(features.double(), wanted, rtol=tolerance, atol=tolerance)


def test_other_types_are_plain():
    assert not GROUP_NORM.runs_on(torch.device("cpu"), torch.float64)
