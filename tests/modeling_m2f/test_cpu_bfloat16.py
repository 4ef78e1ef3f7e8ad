"""How the CPU kernel rounds float32 to bfloat16, bit by bit against PyTorch's own conversion.

Sizes are such that the kernel's float32 numbers are known exactly: sums or differences of two bfloat16 numbers.
"""

import pytest
import torch

from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")

LARGEST, STEP = 0x7F7F, 2.0**120  # the largest number's bits, and its distance from the one below
# Pairs and the bits of their rounded sum, worked out by hand. After the first 1 a bfloat16 has 7 bits.
BY_HAND = [
    (1.0, 2.0**-8, 0x3F80),  # a tie between 1 and 1 + 2^-7: to 1, whose last bit is even
    (1.0 + 2.0**-7, 2.0**-8, 0x3F82),  # a tie between 1 + 2^-7 and 1 + 2^-6: to the latter
    (-1.0, -(2.0**-8), 0xBF80),
    (1.0, 2.0**-8 * (1 + 2.0**-7), 0x3F81),  # a little more than a tie
    (1.0 + 2.0**-7, 2.0**-8 * (1 - 2.0**-7), 0x3F81),  # a little less
    (1.0 + 127 / 128, 2.0**-8, 0x4000),  # carries into the exponent
    (3.3895313892515355e38, STEP / 2, 0x7F80),  # a tie between the largest number and 2^128: infinite
    (3.3895313892515355e38, STEP / 2 * (1 - 2.0**-7), LARGEST),
    (-3.3895313892515355e38, -STEP / 2, 0xFF80),
    (float("inf"), 1.0, 0x7F80),
    (-float("inf"), 1.0, 0xFF80),
    (2.0**-133, 2.0**-133, 0x0002),  # subnormal
]


def bits(tensor):
    return [x & 0xFFFF for x in tensor.flatten().view(torch.int16).tolist()]


def sums_in_the_gradient(a, b):
    """a + b as the gradient of a value that two queries read with weight 1; (N, D) each."""
    value = torch.zeros(len(a), 1, 1, a.shape[1], dtype=torch.bfloat16, requires_grad=True)
    queries = torch.zeros(len(a), 2, 1, 1, 1, 2, dtype=torch.bfloat16)
    out = ms_deform_attn(value, [(1, 1)], torch.full((1, 2, 1, 2), 0.5), queries, queries[..., 0, 0])
    return torch.autograd.grad(out, value, torch.stack([a, b], 1))[0].view_as(a)


def halved_sums_in_the_output(a, b):
    """(a + b) / 2 as the output for two samples, at the centres of two cells, with weight 1/2 each."""
    value = torch.stack([a, b], 1)[:, :, None]  # a map of 1 x 2
    offsets = torch.tensor([[-0.5, 0.0], [0.5, 0.0]], dtype=torch.bfloat16).expand(len(a), 1, 1, 1, 2, 2)
    logits = torch.zeros(len(a), 1, 1, 2, dtype=torch.bfloat16)
    return ms_deform_attn(value, [(1, 2)], torch.full((1, 1, 1, 2), 0.5), offsets, logits).view_as(a)


def differences_in_the_gradient(a, b):
    """b - a as the gradient of an offset between their cells."""
    value = torch.stack([a, b], 1)[:, :, None, None]
    value = torch.nn.functional.pad(value, (0, 7))  # 8 channels, of which one has a gradient
    offsets = torch.full((len(a), 1, 1, 1, 1, 2), -0.25, dtype=torch.bfloat16)
    offsets[..., 1] = 0
    offsets.requires_grad_()
    logits = torch.zeros(len(a), 1, 1, 1, dtype=torch.bfloat16)
    out = ms_deform_attn(value, [(1, 2)], torch.full((1, 1, 1, 2), 0.5), offsets, logits)
    return torch.autograd.grad(out[..., 0].sum(), offsets)[0][..., 0].flatten()


def random_pairs(count):
    """Of like and of less and less like size, so that ties, and what lies next to them, are common."""
    generator = torch.Generator().manual_seed(0)

    def numbers(exponents):
        digits = torch.randint(128, 256, (count,), generator=generator)
        signs = 1 - 2 * torch.randint(0, 2, (count,), generator=generator)
        return torch.ldexp((digits * signs).float(), exponents).bfloat16()

    first = torch.randint(-60, 60, (count,), generator=generator)
    return numbers(first), numbers(first - torch.randint(0, 18, (count,), generator=generator))


@pytest.mark.parametrize(("a", "b", "expected"), BY_HAND)
def test_sums_worked_out_by_hand(a, b, expected):
    a, b = (torch.full((1, 8), x, dtype=torch.bfloat16) for x in (a, b))
    assert bits((a.float() + b.float()).bfloat16()) == [expected] * 8  # PyTorch agrees
    assert bits(sums_in_the_gradient(a, b)) == [expected] * 8


@pytest.mark.parametrize(("a", "b"), [(float("nan"), 1.0), (float("inf"), -float("inf"))])
def test_nan_stays_nan(a, b):
    a, b = (torch.full((1, 8), x, dtype=torch.bfloat16) for x in (a, b))
    assert sums_in_the_gradient(a, b).isnan().all()
    assert halved_sums_in_the_output(a, b).isnan().all()


@pytest.mark.parametrize(
    ("rounded", "exact"),
    [
        (sums_in_the_gradient, lambda a, b: a + b),
        (halved_sums_in_the_output, lambda a, b: (a + b) / 2),
        (differences_in_the_gradient, lambda a, b: b - a),
    ],
)
def test_random_pairs_are_rounded_as_pytorch_rounds(rounded, exact):
    a, b = random_pairs(16384)
    wanted = exact(a.double(), b.double())
    exact32 = wanted.float()
    assert (exact32.double() == wanted).float().mean() > 0.9  # else the kernel's float32 would be rounded already
    known = exact32.double() == wanted
    ties = (exact32.view(torch.int32) & 0xFFFF) == 0x8000
    assert (known & ties).sum() > 100
    shape = (-1,) if rounded is differences_in_the_gradient else (-1, 8)
    result = rounded(a.view(shape), b.view(shape)).flatten()
    assert torch.equal(result[known], exact32.bfloat16()[known])
