"""The CPU kernels of the training objective against plain PyTorch, at the same points."""

import pytest
import torch
from test_criterion import make_criterion, make_targets, overlapping_maps, padded, random_predictions
from torch.nn.functional import grid_sample, softplus

from m2f.modeling_m2f.kernels.cpu_compiler import KernelUnavailableError
from m2f.modeling_m2f.kernels.point_kernels import draw_uniform, sample_shared, sigmoid_sums
from m2f.modeling_m2f.mask_losses import _group_losses, _kernel_group_losses, matched_mask_losses
from m2f.modeling_m2f.matcher import pairwise_costs, pairwise_dice_cost, pairwise_mask_cost
from m2f.modeling_m2f.point_sampling import PointChoice, uniform_points
from m2f.modeling_m2f.prepare_targets import IGNORED, NOTHING, PADDING_LABEL, prepare_targets

pytest_plugins = ("kernel_fixtures",)

KERNELS, UNIFORM_POINTS = "m2f.modeling_m2f.kernels.point_kernels", "m2f.modeling_m2f.point_sampling.uniform_points"
CPU = torch.device("cpu")
SIZE, CANVAS, MAP = (52, 70), (64, 96), (16, 24)  # of the masks, of the canvas, of the logits
CHOICE = PointChoice(200, 3.0, 0.75)


@pytest.fixture(autouse=True)
def compiled(compiled_kernel):
    """In every test, unless it says otherwise."""


@pytest.fixture
def threads():
    """Sets their number for a test, and lets little work use them all."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("m2f.modeling_m2f.kernels.cpu_library.WORK_PER_THREAD", 1)
        yield torch.set_num_threads
    torch.set_num_threads(before)


def stored_targets(form: str, ignored: bool, valid: tuple[int, int] | None, canvas: tuple[int, int] = CANVAS):
    """Three masks, two of which overlap, in one form."""
    ids = torch.full((2, *SIZE), NOTHING, dtype=torch.int32)
    ids[0, 5:30, 7:40], ids[0, 30:52, 40:70], ids[1, 20:50, 20:60] = 0, 1, 2
    if ignored:
        ids[0, :20, 45:], ids[0, 40:, :9] = IGNORED, IGNORED
    masks, classes = ids, torch.tensor([1, 3, 1])
    if form != "index maps":
        masks = torch.stack([(ids == n).any(0) for n in range(3)]).to(getattr(torch, form))
        if masks.is_floating_point():
            masks = 0.75 * masks  # which all types hold
        # A row that only fills up lies before the others.
        masks, classes = masks[[0, 0, 1, 2]], torch.tensor([PADDING_LABEL, 1, 3, 1])
    (targets,) = prepare_targets([masks], [classes], [valid or SIZE], SIZE, canvas, valid is None, 5, 8, CPU)
    if ignored:
        targets.ignored = (ids == IGNORED).any(0)
    return targets


def both_forms(targets, count: int, monkeypatch, choice: PointChoice = CHOICE, learns: bool = True, logits=None):
    """Losses and gradient of random masks by the kernel and by plain PyTorch, at the same points."""
    logits = torch.randn(count, *MAP) if logits is None else logits
    indices = torch.arange(count) % 3
    drawn = torch.rand(count, choice.num_drawn, 2)
    monkeypatch.setattr(UNIFORM_POINTS, lambda count, num_points, device: drawn[:count, :num_points])
    coefficients = torch.tensor([0.7, 1.3])
    return [
        form(logits.clone(), targets, indices, choice, coefficients, learns)
        for form in (_kernel_group_losses, _group_losses)
    ]


FORMS = ["index maps", "uint8", "bool", "float32", "float64", "float16", "bfloat16"]
PLACES = {
    "everything counts": (False, None),
    "ignored pixels": (True, None),
    "padding": (False, (40, 61)),
    "padding and ignored pixels": (True, (40, 61)),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", FORMS)
def test_losses_and_gradients_are_those_of_plain_pytorch(form, place, monkeypatch):
    torch.manual_seed(0)
    (losses, gradient), (expected, expected_gradient) = both_forms(
        stored_targets(form, *PLACES[place]), 4, monkeypatch
    )
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-7)
    assert gradient.shape == (4, MAP[0] * MAP[1]) and gradient.abs().sum(1).min() > 0


@pytest.mark.parametrize("count", [1, 7])
def test_one_mask_and_more_masks_than_threads(count, threads, monkeypatch):
    torch.manual_seed(0)
    threads(3)
    (losses, gradient), (expected, expected_gradient) = both_forms(
        stored_targets("uint8", False, None), count, monkeypatch
    )
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-7)


def test_masks_of_the_canvas_size_and_a_single_cell(monkeypatch):
    torch.manual_seed(0)
    targets = stored_targets("index maps", True, None, SIZE)
    for size in ((1, 1), (3, 1), (13, 17)):
        (losses, gradient), (expected, expected_gradient) = both_forms(
            targets, 3, monkeypatch, logits=torch.randn(3, *size)
        )
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_an_image_without_any_point_that_counts_gives_zeros(monkeypatch):
    targets = stored_targets("uint8", False, None)
    targets.ignored, targets.valid_size = torch.ones(SIZE, dtype=torch.bool), SIZE
    for losses, gradient in both_forms(targets, 3, monkeypatch):
        assert not losses.any() and not gradient.any()


def test_where_few_candidates_count_all_of_them_are_kept(monkeypatch):
    """A corner that holds about 600 / 100 of the candidates; 150 are kept."""
    torch.manual_seed(0)
    targets = stored_targets("uint8", False, (6, 10))
    (losses, gradient), (expected, expected_gradient) = both_forms(targets, 3, monkeypatch)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)
    assert gradient.unflatten(1, MAP)[:, 3:].abs().sum() == 0 < gradient.abs().sum()


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_shares_of_undecided_points(ratio, monkeypatch):
    torch.manual_seed(0)
    results = both_forms(stored_targets("uint8", True, None), 3, monkeypatch, PointChoice(100, 2.5, ratio))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-7)


def test_of_equally_undecided_candidates_the_first_are_kept(monkeypatch):
    """Logits that are equal inside the map: the loss is the mean over the first candidates that lie there."""
    torch.manual_seed(0)
    drawn = 0.25 + 0.5 * torch.rand(1, CHOICE.num_drawn, 2)
    logits = torch.full((1, *MAP), 0.5)
    monkeypatch.setattr(UNIFORM_POINTS, lambda *_: drawn)
    targets = stored_targets("uint8", False, None)
    losses, _ = _kernel_group_losses(logits, targets, torch.tensor([2]), CHOICE, torch.ones(2), False)
    kept = torch.cat([drawn[0, : CHOICE.num_uncertain], drawn[0, CHOICE.num_candidates :]])
    expected = softplus(torch.tensor(0.5)) - 0.5 * targets.at_shared_points(kept)[2].mean()
    torch.testing.assert_close(losses[0, 0], expected, rtol=1e-5, atol=0)


def test_large_logits_and_logits_that_are_not_a_number(monkeypatch):
    torch.manual_seed(0)
    targets = stored_targets("uint8", False, None)
    results = both_forms(targets, 3, monkeypatch, logits=300 * torch.randn(3, *MAP))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)
    broken = torch.randn(3, *MAP)
    broken[1, 2:9] = float("nan")
    for losses, _ in both_forms(targets, 3, monkeypatch, logits=broken):
        assert losses.isnan().tolist() == [[False, True, False]] * 2


def test_without_gradients_the_logits_stay_as_they_are(monkeypatch):
    logits = torch.randn(3, *MAP)
    drawn = torch.rand(3, CHOICE.num_drawn, 2)
    monkeypatch.setattr(UNIFORM_POINTS, lambda *_: drawn)
    targets, before = stored_targets("uint8", False, None), logits.clone()
    arguments = (targets, torch.arange(3), CHOICE, torch.ones(2))
    without, gradient = _kernel_group_losses(logits, *arguments, False)
    assert gradient is None and torch.equal(logits, before)
    assert torch.equal(_kernel_group_losses(logits, *arguments, True)[0], without)


def test_no_match_gives_zeros():
    embeddings, features = torch.randn(2, 1, 8, 4, requires_grad=True), torch.randn(1, 4, *MAP)
    targets = make_targets(torch.zeros(1, 0, *CANVAS, dtype=torch.uint8), torch.zeros(1, 0, dtype=torch.int64))
    none = torch.zeros(0, dtype=torch.int64)
    total, sums = matched_mask_losses(embeddings, features, targets, [[(none, none)]] * 2, CHOICE, torch.ones(2))
    assert total == 0 and not sums.any() and not torch.autograd.grad(total, embeddings)[0].any()


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


def test_no_result_of_a_kernel_depends_on_the_number_of_threads(threads):
    """The matrix products between them are the library's, which does not promise it."""
    torch.manual_seed(0)
    logits, shared, targets = torch.randn(9, *MAP), torch.rand(500, 2), stored_targets("index maps", True, (40, 61))
    results = []
    for number in (1, 2, 5):
        threads(number)
        torch.manual_seed(1)
        arguments = (targets, torch.arange(9) % 3, CHOICE, torch.ones(2))
        losses, gradient = _kernel_group_losses(logits.clone(), *arguments, True)
        results.append([losses, gradient, torch.get_rng_state(), uniform_points(9, 77, CPU)])
        results[-1] += [sample_shared(logits, shared), *sigmoid_sums(logits.flatten(1), None)]
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            assert torch.equal(actual, expected)


def test_the_loss_repeats_bit_for_bit():
    predictions = random_predictions()
    ids, _, classes = overlapping_maps()
    ids[:, 0, 50:] = IGNORED
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        total, terms = make_criterion()(*predictions, make_targets(ids, padded(classes, PADDING_LABEL)))
        results.append([total, *terms.values(), *torch.autograd.grad(total, predictions)])
    assert all(map(torch.equal, *results))


def test_plain_pytorch_where_it_is_asked_for_or_there_is_no_compiler(monkeypatch):
    def forbidden(*_):
        raise AssertionError("a kernel ran")

    monkeypatch.setattr("m2f.modeling_m2f.kernels.whole_sources.load_library", forbidden)
    monkeypatch.setattr(f"{KERNELS}.library", forbidden)
    predictions = random_predictions()
    ids, _, classes = overlapping_maps()

    def loss():
        torch.manual_seed(0)
        return make_criterion()(*predictions, make_targets(ids, padded(classes, PADDING_LABEL)))[0]

    monkeypatch.setenv("M2F_KERNELS", "reference")
    expected = loss()
    place = "m2f.modeling_m2f.kernels.whole_sources.unavailable_reason"
    monkeypatch.setattr(place, lambda source: "no C++ compiler in this test")
    monkeypatch.setenv("M2F_KERNELS", "auto")
    with pytest.warns(RuntimeWarning, match="The loss runs in plain PyTorch on cpu.*no C.. compiler in this test"):
        assert torch.equal(loss(), expected)
    monkeypatch.setenv("M2F_KERNELS", "compiled")
    with pytest.raises(KernelUnavailableError, match="no C.. compiler in this test"):
        loss()
