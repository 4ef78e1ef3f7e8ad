"""The op's numbers against its plain PyTorch definition in float64, and what it says to arguments that do not fit."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ms_deform_attn_inputs import LEVELS, TOLERANCES, check, make_inputs, tensors

from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn
from m2f.modeling_m2f.kernels.ms_deform_attn_reference import ms_deform_attn_reference

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("head_dim", [8, 16, 24, 32, 64])
def test_every_dtype_and_head_size(dtype, head_dim):
    check(make_inputs(LEVELS[:3], head_dim=head_dim, dtype=dtype), TOLERANCES[dtype])


@pytest.mark.parametrize(("levels", "points"), list(itertools.product([1, 2, 3, 4], [1, 4, 8])))
def test_every_number_of_levels_and_points(levels, points):
    check(make_inputs(LEVELS[:levels], points=points), TOLERANCES[torch.float64])


@pytest.mark.parametrize("shape", [(1, 1), (1, 31), (97, 131)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_odd_maps_and_batches(shape, batch, dtype):
    check(make_inputs([shape], batch=batch, queries=50, dtype=dtype), TOLERANCES[dtype])


def test_reference_points_shared_by_the_batch():
    check(make_inputs(LEVELS[:2], batch=3, reference_batch=1), TOLERANCES[torch.float64])


def test_gradcheck():
    inputs = make_inputs([(3, 4), (2, 2)], batch=1, queries=4, heads=2, points=2)

    def attend(value, reference, offsets, logits):
        return ms_deform_attn(value, inputs[1], reference, offsets, logits)

    assert torch.autograd.gradcheck(attend, tensors(inputs))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=2),
    batch=st.integers(1, 3),
    queries=st.integers(1, 5),
    data=st.data(),
)
def test_locations_on_and_near_knots_and_borders(shapes, batch, queries, data):
    """Cell centres and the map's borders, and values next to them in float64: where interpolation changes its cell.

    Away from knots by a rounding error the derivative is one-sided, so only the output is compared on them.
    """
    value, _, reference, offsets, logits = make_inputs(shapes, batch, queries, heads=2, points=2)
    steps = st.sampled_from([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 5.5, 6.0])
    nudges = st.sampled_from([0.0, 1e-12, -1e-12, 1e-3])
    count = offsets.numel()
    chosen = data.draw(st.lists(st.tuples(steps, nudges), min_size=1, max_size=8))
    pattern = torch.tensor([a + b for a, b in chosen], dtype=torch.float64)
    offsets = pattern.repeat(count // len(pattern) + 1)[:count].view_as(offsets)
    reference = torch.zeros_like(reference)  # the corner of the map: an offset of n + 0.5 is the centre of cell n
    with torch.no_grad():
        expected = ms_deform_attn_reference(value, shapes, reference, offsets, logits)
        actual = ms_deform_attn(value, shapes, reference, offsets, logits)
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("axes", [slice(None), 0, 1])
def test_offsets_that_are_not_finite_sample_nothing_and_touch_no_other_row(bad, axes):
    inputs = make_inputs(LEVELS[:2], queries=5)
    expected = ms_deform_attn(*inputs).detach()
    value, shapes, reference, offsets, logits = inputs
    offsets = offsets.detach().clone()
    offsets[0, 2, 1, ..., axes] = bad
    offsets.requires_grad_()
    out = ms_deform_attn(value, shapes, reference, offsets, logits)
    head = out.detach()[0, 2].view(3, -1)
    assert torch.equal(head[1], torch.zeros_like(head[1]))
    others = torch.ones_like(out, dtype=torch.bool)
    others[0, 2, 8:16] = False
    assert torch.equal(out.detach()[others], expected[others])
    for gradient in torch.autograd.grad(out.sum(), (value, offsets, logits)):
        assert gradient.isfinite().all()


def test_views_that_are_not_contiguous_or_not_aligned():
    inputs = make_inputs(LEVELS[:2], dtype=torch.float32)
    expected = ms_deform_attn(*inputs)

    def unaligned(tensor):
        buffer = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:]
        return buffer.copy_(tensor.detach().flatten()).view(tensor.shape)

    def strided(tensor):
        return torch.stack([tensor.detach(), tensor.detach()], -1)[..., 0]

    for change in (unaligned, strided):
        changed = [x if isinstance(x, list) else change(x) for x in inputs]
        assert torch.equal(ms_deform_attn(*changed), expected)


@pytest.mark.parametrize(("batch", "queries"), [(0, 3), (2, 0)])
def test_nothing_in_gives_nothing_out(batch, queries):
    inputs = make_inputs(LEVELS[:2], batch=batch, queries=queries)
    out = ms_deform_attn(*inputs)
    assert out.shape == (batch, queries, 24)
    out.sum().backward()
    assert inputs[0].grad.shape == inputs[0].shape and inputs[0].grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spatial_shapes": [(5, 7), (2, 2)]}, ["39 cells", "36"]),
        ({"reference_points": torch.zeros(2, 11, 1, 2)}, ["reference_points", "(2, 11, 1, 2)", "(2, 11, 2, 2)"]),
        ({"reference_points": torch.zeros(3, 11, 2, 2)}, ["batch 3", "1 or 2"]),
        ({"sampling_offsets": torch.zeros(2, 11, 4, 2, 4, 2)}, ["sampling_offsets", "(2, 11, 3, 2, 4, 2)"]),
        ({"attention_logits": torch.zeros(2, 11, 3, 9)}, ["attention_logits", "(2, 11, 3, 9)", "(2, 11, 3, 8)"]),
        ({"value": torch.zeros(2, 36, 24)}, ["value", "(2, 36, 24)", "(B, S, M, D)"]),
        ({"attention_logits": torch.zeros(2, 11, 3, 8).double()}, ["torch.float64", "one dtype"]),
        ({"value": torch.zeros(2, 36, 3, 8, device="meta")}, ["meta", "one device"]),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, words):
    names = ("value", "spatial_shapes", "reference_points", "sampling_offsets", "attention_logits")
    inputs = dict(zip(names, make_inputs(LEVELS[:2], dtype=torch.float32), strict=True))
    with pytest.raises(ValueError) as error:
        ms_deform_attn(**{**inputs, **change})
    assert all(word in str(error.value) for word in words), error.value
