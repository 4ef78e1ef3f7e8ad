"""The CUDA kernels without a GPU: their text, compiled for the CPU with cuda_on_host.h in place of the GPU's
built-ins, is compared with the reference in float64."""

import pytest
import torch
from ms_deform_attn_cuda_cases import (
    ALL,
    NAMES,
    TOLERANCES,
    assert_near,
    check_against_reference,
    expected,
    make_inputs,
)

from m2f.modeling_m2f.kernels.ms_deform_attn_cuda import DETERMINISTIC, FINISH, backward, forward

pytest_plugins = ("kernel_fixtures",)

ODD = [(1, 1), (7, 3), (2, 9), (5, 4)]
CASES = [  # dtype, D, levels, P
    (torch.float32, 32, ODD[:3], 4),
    (torch.float16, 32, ODD[:3], 4),
    (torch.bfloat16, 32, ODD[1:], 4),
    (torch.float32, 8, ODD[1:2], 1),
    (torch.bfloat16, 8, ODD, 8),
    (torch.float16, 16, ODD[:2], 8),
    (torch.float32, 24, ODD[:1], 4),
    (torch.bfloat16, 24, ODD[2:], 1),
    (torch.float32, 64, ODD, 4),
    (torch.float16, 64, ODD[1:], 8),
    (torch.float32, 12, ODD[:2], 3),
    (torch.float16, 5, ODD[:2], 5),  # one channel a load
    (torch.float32, 65, ODD[1:2], 4),  # channels of a lane in three runs
]


@pytest.mark.parametrize("dtype, head_dim, shapes, points", CASES)
def test_host_emulation_equals_reference(on_host, dtype, head_dim, shapes, points):
    check_against_reference(make_inputs(shapes, dtype, head_dim, points))


def test_wide_map_and_one_reference_for_all_images(on_host):
    check_against_reference(make_inputs([(97, 131), (1, 40)], torch.float32, heads=1, batch=3, reference_batch=1))


@pytest.mark.parametrize(
    "needs", [(False, False, False, True), (True, False, False, False), (False, True, True, False)]
)
def test_only_what_is_needed_is_computed(on_host, needs):
    check_against_reference(make_inputs(ODD[:3], torch.float32, heads=2), needs)


def test_vectors_fit_head_dim_and_address(on_host):
    for dtype, head_dim, offset, vectors in (
        (torch.bfloat16, 32, 0, ("8", "4")),
        (torch.bfloat16, 32, 2, ("2", "2")),  # 4 bytes beside a multiple of 16
        (torch.float32, 32, 1, ("1", "1")),
    ):
        arguments = make_inputs(ODD[:3], dtype, head_dim, heads=2)
        shifted = torch.empty(arguments[0].numel() + offset, dtype=dtype)[offset:].view_as(arguments[0])
        arguments[0] = shifted.copy_(arguments[0])
        check_against_reference(arguments)
        assert tuple(made["M2F_VECTOR"] for made in on_host[-2:]) == vectors


def test_unaligned_and_strided_inputs(on_host):
    value, shapes, reference, offsets, logits = make_inputs(ODD[:3], torch.float16, heads=2)
    strided = value.transpose(1, 2).contiguous().transpose(1, 2)
    shifted = torch.cat([offsets.flatten()[:1], offsets.flatten()])[1:].view_as(offsets)
    shifted_reference = torch.cat([reference.flatten()[:1], reference.flatten()])[1:].view_as(reference)
    wide = torch.cat([logits, logits], -1)[..., : logits.shape[-1]]
    assert not strided.is_contiguous() and shifted.data_ptr() % 4 and not wide.is_contiguous()
    check_against_reference((strided, shapes, shifted_reference, shifted, wide))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 3e38])
@pytest.mark.parametrize("deterministic", [False, True])
def test_offset_that_is_no_location_samples_nothing(on_host, bad, deterministic):
    """It equals an offset far outside the map, whose sample is zero by definition, and its own gradient is zero."""
    arguments = make_inputs(ODD[:3], torch.float32, 16, heads=2)
    grad_out = torch.randn(2, 5, 32)
    arguments[3][0, 1, 0, 2, 3] = 1e6
    wanted, wanted_grads = expected(arguments, grad_out)
    arguments[3][0, 1, 0, 2, 3] = torch.tensor([bad, 0.0])
    grads = backward(grad_out, *arguments, ALL, deterministic)
    assert_near(forward(*arguments), wanted, torch.float32, "out")
    for name, grad, wanted_grad in zip(NAMES, grads, wanted_grads, strict=True):
        assert_near(grad, wanted_grad, torch.float32, name)


def test_cells_of_no_sample_are_not_read(on_host):
    """Row 0 holds NaN and every location lies more than a cell below it, or outside the map."""
    value, shapes, reference, offsets, logits = make_inputs([(6, 5)], torch.float32, 16, heads=2)
    value[:, :5] = float("nan")
    reference.fill_(0.5)
    offsets.clamp_(-0.9, 30)
    assert forward(value, shapes, reference, offsets, logits).isfinite().all()


def test_locations_on_knots_and_borders(on_host):
    """Cell centres, half-way points, edges and one cell outside. The result alone: gradients by location jump there.

    All numbers are exact in float32, so the tolerance is that of sums of 12 terms."""
    shapes = [(4, 8), (2, 2), (1, 1)]
    value, _, reference, offsets, logits = make_inputs(shapes, torch.float32, 8, heads=1, batch=1, queries=60)
    reference.copy_(torch.randint(0, 17, reference.shape) / 16)
    offsets.copy_(torch.randint(-8, 9, offsets.shape) / 2)
    wanted, _ = expected((value, shapes, reference, offsets, logits), torch.zeros(1, 60, 8))
    torch.testing.assert_close(forward(value, shapes, reference, offsets, logits).double(), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("magnitude", [1.0, 1e-6, 3e4])
def test_fixed_point_gradient(on_host, deterministic, dtype, magnitude):
    """Near the reference at any magnitude of grad_out that the dtype holds."""
    arguments = make_inputs(ODD[:3], dtype, 16, queries=40)
    grad_out = (torch.randn(2, 40, 48).clamp(-2, 2) * magnitude).to(dtype)
    grads = backward(grad_out, *arguments, ALL)
    assert [made["M2F_KERNEL"] for made in on_host] == [DETERMINISTIC, FINISH]
    wanted = expected(arguments, grad_out)[1][0]
    # float16 has 2^-24 as its least step.
    atol = 2**-25 if dtype == torch.float16 else 0
    assert ((grads[0].double() - wanted).abs().max() - atol) / wanted.abs().max() <= TOLERANCES[dtype]


@pytest.mark.parametrize("queries", [4096, 4097])
def test_fixed_point_sum_does_not_overflow(on_host, queries):
    """The most that one cell can get: every query with weight 1 and the largest number. Sums are exact in float32."""
    value, reference = torch.ones(1, 1, 1, 8), torch.full((1, queries, 1, 2), 0.5)
    offsets, logits = torch.zeros(1, queries, 1, 1, 1, 2), torch.zeros(1, queries, 1, 1)
    grad_out = torch.full((1, queries, 8), 1.75)
    grads = backward(grad_out, value, [(1, 1)], reference, offsets, logits, (True, False, False, False), True)
    assert grads[0].flatten().tolist() == [1.75 * queries] * 8


def test_fixed_point_gradient_does_not_depend_on_the_order(on_host):
    """Queries in another order reach the sums in another order: the gradient is the same bit for bit."""
    value, shapes, reference, offsets, logits = make_inputs([(3, 2), (2, 2)], torch.float32, 8, heads=2, queries=300)
    grad_out, order = torch.randn(2, 300, 16), torch.randperm(300)
    needs = (True, False, False, False)
    shuffled = (grad_out[:, order], value, shapes, reference[:, order], offsets[:, order], logits[:, order], needs)
    plain = (grad_out, value, shapes, reference, offsets, logits, needs)
    assert not torch.equal(backward(*plain, False)[0], backward(*shuffled, False)[0])
    assert torch.equal(backward(*plain, True)[0], backward(*shuffled, True)[0])


@pytest.mark.parametrize("where", ["grad_out", "logits"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_fixed_point_gradient_of_non_finite_numbers_is_nan(on_host, where, bad):
    arguments = make_inputs(ODD[:3], torch.float32, 16, heads=2)
    grad_out = torch.randn(2, 5, 32)
    (grad_out if where == "grad_out" else arguments[4])[1, 2, 1] = bad
    assert backward(grad_out, *arguments, (True, False, False, False), True)[0].isnan().all()


@pytest.mark.parametrize("head_dim", [24, 65])  # lanes of a group: 8 for 6 runs of channels, 32 for 65
def test_grid_covers_groups_with_idle_lanes(on_host, head_dim):
    check_against_reference(make_inputs(ODD[1:2], torch.float32, head_dim, 1, batch=1, queries=40))


def test_more_images_than_a_grid_has_rows(on_host, monkeypatch):
    monkeypatch.setattr("m2f.modeling_m2f.kernels.ms_deform_attn_cuda.MAX_GRID_Y", 2)
    check_against_reference(make_inputs(ODD[:3], torch.float32, heads=2, batch=5))


@pytest.mark.parametrize("batch, queries", [(0, 5), (2, 0)])
def test_empty_batch_or_no_queries(on_host, batch, queries):
    arguments = make_inputs(ODD[:2], torch.float32, 8, heads=2, batch=batch, queries=queries)
    out = forward(*arguments)
    assert out.shape == (batch, queries, 16)
    grads = backward(out, *arguments, ALL)
    assert [grad.shape for grad in grads] == [t.shape for t in (arguments[0], *arguments[2:])]
    assert not any(grad.any() for grad in grads) and not on_host


def test_dtype_without_kernel_is_refused():
    with pytest.raises(ValueError, match="no torch.float64"):
        forward(*make_inputs(ODD[:2], torch.float64, 8))
