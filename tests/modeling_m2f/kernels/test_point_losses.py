"""The CPU kernel of the mask losses against plain PyTorch, at the same points."""

import pytest
import torch
from criterion_cases import make_criterion, make_targets, overlapping_maps, padded, random_predictions
from torch.nn.functional import softplus

from m2f.modeling_m2f.kernels.cpu_source import CpuSource
from m2f.modeling_m2f.kernels.kernel_policy import KernelUnavailableError
from m2f.modeling_m2f.mask_losses import _group_losses, _kernel_group_losses, matched_mask_losses
from m2f.modeling_m2f.point_sampling import PointChoice
from m2f.modeling_m2f.prepare_targets import IGNORED, NOTHING, PADDING_LABEL, prepare_targets

pytest_plugins = ("kernel_fixtures",)

UNIFORM_POINTS = "m2f.modeling_m2f.point_sampling.uniform_points"
CPU = torch.device("cpu")
SIZE, CANVAS, MAP = (52, 70), (64, 96), (16, 24)  # of the masks, of the canvas, of the logits
CHOICE = PointChoice(200, 3.0, 0.75)


@pytest.fixture(autouse=True)
def compiled(compiled_kernel):
    """In every test, unless it says otherwise."""


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


def test_no_result_depends_on_the_number_of_threads(threads):
    """The matrix products between them are the library's, which does not promise it."""
    torch.manual_seed(0)
    logits, targets = torch.randn(9, *MAP), stored_targets("index maps", True, (40, 61))
    results = []
    for number in (1, 2, 5):
        threads(number)
        torch.manual_seed(1)
        arguments = (targets, torch.arange(9) % 3, CHOICE, torch.ones(2))
        losses, gradient = _kernel_group_losses(logits.clone(), *arguments, True)
        results.append([losses, gradient, torch.get_rng_state()])
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

    monkeypatch.setattr(CpuSource, "library", forbidden)
    predictions = random_predictions()
    ids, _, classes = overlapping_maps()

    def loss():
        torch.manual_seed(0)
        return make_criterion()(*predictions, make_targets(ids, padded(classes, PADDING_LABEL)))[0]

    monkeypatch.setenv("M2F_KERNELS", "reference")
    expected = loss()
    monkeypatch.setattr(CpuSource, "unavailable_reason", lambda *_: "no C++ compiler in this test")
    monkeypatch.setenv("M2F_KERNELS", "auto")
    with pytest.warns(RuntimeWarning, match="The loss runs in plain PyTorch on cpu.*no C.. compiler in this test"):
        assert torch.equal(loss(), expected)
    monkeypatch.setenv("M2F_KERNELS", "compiled")
    with pytest.raises(KernelUnavailableError, match="no C.. compiler in this test"):
        loss()
