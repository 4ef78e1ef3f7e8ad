"""The CPU kernel that normalises and pads 8-bit images, against the operations that it stands for."""

import numpy as np
import pytest
import torch

from m2f.modeling_m2f.kernels.padded_pixels import PADDED_PIXELS, pad_pixels

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")


@pytest.mark.parametrize(("size", "canvas"), [((5, 7), (5, 7)), ((1, 1), (32, 64)), ((40, 33), (64, 64))])
@pytest.mark.parametrize("in_threads", [False, True])
def test_pixels_are_looked_up_and_the_rest_is_zero(size, canvas, in_threads):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    table = torch.randn(3, 256)
    values, mask = torch.full((3, *canvas), 7.0), torch.full(canvas, 7)
    pad_pixels(image[:, ::-1], table, values, mask, in_threads)  # a view that is not contiguous
    expected, expected_mask = torch.zeros(3, *canvas), torch.zeros(canvas, dtype=torch.int64)
    for channel in range(3):
        levels = torch.from_numpy(image[:, ::-1, channel].astype(np.int64))
        expected[channel, : size[0], : size[1]] = table[channel][levels]
    expected_mask[: size[0], : size[1]] = 1
    assert torch.equal(values, expected) and torch.equal(mask, expected_mask)


def test_it_is_for_the_cpu_and_can_be_switched_off(monkeypatch):
    assert PADDED_PIXELS.runs_on(torch.device("cpu")) and not PADDED_PIXELS.runs_on(torch.device("cuda", 0))
    monkeypatch.setenv("M2F_KERNELS", "reference")
    assert not PADDED_PIXELS.runs_on(torch.device("cpu"))
