"""Which points a mask is compared at, and the values there."""

import torch

from m2f.modeling_m2f.point_sampling import sample_at_points, sample_cells, uncertain_points

pytest_plugins = ("kernel_fixtures",)


def test_points_at_cell_centres_read_the_cells():
    maps = torch.rand(2, 3, 4, 5)
    y, x = torch.meshgrid((torch.arange(4) + 0.5) / 4, (torch.arange(5) + 0.5) / 5, indexing="ij")
    points = torch.stack([x, y], -1).view(1, 20, 2)
    torch.testing.assert_close(sample_at_points(maps, points), maps.flatten(2), atol=1e-5, rtol=1e-5)


def test_sampled_cells_are_the_sampled_map():
    features, points = torch.randn(7, 5, 6), torch.rand(200, 2)
    points[:4] = torch.tensor([[0, 0], [1, 1], [0, 0.5], [0.5, 1]])  # borders, where zeros from outside weigh half
    expected = sample_at_points(features[None], points[None])[0].T
    actual = sample_cells(features.flatten(1).T.contiguous(), points, (5, 6))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_points_are_undecided_ones_and_uniform_ones():
    """Of 100 points, 75 lie where |logit| is least among 300 candidates, 25 anywhere."""
    logits = torch.linspace(-10, 10, 64).expand(1, 64, 64)
    torch.manual_seed(0)
    points = uncertain_points(logits, 100, 3.0, 0.75)
    assert points.shape == (1, 100, 2) and 0 <= points.min() and points.max() < 1
    distance = (points[0, :, 0] - 0.5).abs()
    # The 75 nearest of 300 uniform points lie within 1/8 of the middle, give or take 4 standard deviations.
    assert distance[:75].max() < 0.125 + 4 * 0.0125 and distance[75:].max() > 0.25


def test_undecided_points_that_do_not_count_are_kept_only_where_there_are_no_others():
    """Undecided in the middle; what counts is the lower half, of about 150 candidates, but for the border, where the
    zeros beyond look undecided."""
    logits = torch.linspace(-10, 10, 64).expand(1, 64, 64)
    torch.manual_seed(0)
    points = uncertain_points(logits, 100, 3.0, 0.75, lambda points: ((points[..., 1] - 0.75).abs() < 0.24).float())
    assert (points[0, :75, 1] - 0.75).abs().max() < 0.24 and points[0, 75:, 1].min() < 0.5
    assert (points[0, :75, 0] - 0.5).abs().max() < 0.25 + 4 * 0.025
    points = uncertain_points(logits, 100, 3.0, 0.75, lambda points: points.new_zeros(points.shape[:-1]))
    assert points.shape == (1, 100, 2)
