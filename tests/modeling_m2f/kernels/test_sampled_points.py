"""The CPU kernels that draw points and read maps at them, against plain PyTorch."""

import pytest
import torch
from torch.nn.functional import grid_sample, softplus

from m2f.modeling_m2f.kernels.sampled_points import draw_uniform, sample_shared, sigmoid_sums
from m2f.modeling_m2f.matcher import pairwise_costs, pairwise_dice_cost, pairwise_mask_cost
from m2f.modeling_m2f.point_sampling import uniform_points

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")
CPU = torch.device("cpu")


def test_values_at_shared_points_are_those_of_grid_sample():
    """Of maps whose rows and columns do not lie side by side, too; points on the borders."""
    torch.manual_seed(0)
    points = torch.rand(300, 2)
    points[:4] = torch.tensor([[0, 0], [1, 1], [0, 0.5], [0.5, 1]])
    for maps in (torch.randn(7, 5, 6), torch.randn(5, 6, 7).permute(2, 0, 1), torch.randn(3, 1, 1)):
        expected = grid_sample(maps[None], 2 * points[None, :, None] - 1, align_corners=False)[0, ..., 0]
        torch.testing.assert_close(sample_shared(maps, points), expected, atol=1e-5, rtol=1e-5)
        strided = torch.stack([points[:, 1], points[:, 0]]).T.flip(-1)
        torch.testing.assert_close(sample_shared(maps, strided), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_costs_are_those_of_their_definitions(weighted):
    torch.manual_seed(0)
    logits, targets = 5 * torch.randn(11, 700), torch.rand(4, 700)
    logits[0, :5] = torch.tensor([-200.0, 200.0, 0.0, -88.0, 88.0])
    weights = (torch.rand(700) < 0.6).float() if weighted else None
    doubles = [x if x is None else x.double() for x in (logits, targets, weights)]
    for actual, expected in zip(
        pairwise_costs(logits, targets, weights),
        (pairwise_mask_cost(*doubles), pairwise_dice_cost(*doubles)),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=1e-6)


def test_probabilities_and_their_sums_from_the_least_to_the_largest_logit():
    logits = torch.cat([torch.linspace(-100, 100, 997), torch.tensor([-1e30, 1e30])]).expand(2, -1)
    weights = torch.rand(logits.shape[1])
    probabilities, sums, softplus_sums = sigmoid_sums(logits, weights)
    exact = logits.double()
    torch.testing.assert_close(probabilities, (weights * exact.sigmoid()).float(), rtol=1e-6, atol=1e-37)
    torch.testing.assert_close(sums, (weights * exact.sigmoid()).sum(1).float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(softplus_sums, (weights * softplus(exact)).sum(1).float(), rtol=1e-6, atol=0)
    broken = logits.clone()
    broken[1, 700] = float("nan")
    for total in sigmoid_sums(broken, None)[1:]:
        assert total.isnan().tolist() == [False, True]


def test_drawn_numbers_are_uniform_and_independent():
    """Chi-squared tests in one and two dimensions and correlations; each limit is 5 standard deviations."""
    torch.manual_seed(0)
    rows, count = 50, 40_000
    points = uniform_points(rows, count // 2, CPU)
    numbers = points.flatten(1)
    assert points.shape == (rows, count // 2, 2) and 0 <= numbers.min() and numbers.max() < 1
    assert torch.equal(numbers * 2**24, (numbers * 2**24).round())
    for cells, classes in (
        ((numbers * 1000).long(), 1000),
        ((points[..., 0] * 32).long() * 32 + (points[..., 1] * 32).long(), 1024),
        ((numbers * 2**24).long() % 512, 512),  # the last 9 bits
    ):
        expected = cells.numel() / classes
        statistic = ((torch.bincount(cells.flatten(), minlength=classes) - expected) ** 2 / expected).sum()
        assert abs(statistic - (classes - 1)) < 5 * (2 * (classes - 1)) ** 0.5
    centred = (numbers.double() - 0.5) * 12**0.5
    # Of neighbours, of x and y, of a generator's lanes (16 numbers apart), and of different rows.
    for lag in (1, 2, 15, 16, 17, 32):
        products = centred[:, lag:] * centred[:, :-lag]
        assert abs(products.mean()) < 5 / products.numel() ** 0.5
    between = centred @ centred.T / count
    assert (between - torch.diag(between.diag())).abs().max() < 5 / count**0.5
    assert abs(centred.square().mean() - 1) < 5 * (0.8 / centred.numel()) ** 0.5  # the variance of 12 (u - 1/2)^2


def test_all_points_follow_the_seed_of_the_default_generator():
    torch.manual_seed(3)
    first, state = uniform_points(4, 100, CPU), torch.get_rng_state()
    again = uniform_points(4, 100, CPU)
    assert not (first[:, None] == again[None]).all((2, 3)).any()
    torch.set_rng_state(state)
    assert torch.equal(uniform_points(4, 100, CPU), again)
    torch.manual_seed(3)
    assert torch.equal(uniform_points(4, 100, CPU), first)


def test_points_of_a_mask_depend_on_the_masks_before_it_alone():
    torch.manual_seed(3)
    together = uniform_points(5, 33, CPU)
    torch.manual_seed(3)
    assert torch.equal(torch.cat([uniform_points(n, 33, CPU) for n in (1, 3, 0, 1)]), together)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 48])
def test_a_row_of_numbers_ends_where_it_should(count):
    seeds = torch.arange(3)
    longer = draw_uniform(seeds, 64)
    assert torch.equal(draw_uniform(seeds, count), longer[:, :count])


def test_no_result_depends_on_the_number_of_threads(threads):
    torch.manual_seed(0)
    logits, shared, results = torch.randn(9, 16, 24), torch.rand(500, 2), []
    for number in (1, 2, 5):
        threads(number)
        torch.manual_seed(1)
        points = uniform_points(9, 77, CPU)
        results.append([points, sample_shared(logits, shared), *sigmoid_sums(logits.flatten(1), None)])
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))
