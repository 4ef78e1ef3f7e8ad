"""The CUDA kernels on a GPU against the reference in float64, on the numbers that the kernels got."""

import functools

import pytest
import torch
from ms_deform_attn_cuda_cases import (
    ALL,
    NAMES,
    TOLERANCES,
    assert_near,
    check_against_reference,
    expected,
    make_grad_out,
    make_queries,
)
from ms_deform_attn_cuda_cases import make_inputs as make_inputs_anywhere

from m2f.modeling_m2f.kernels.cuda_driver import unavailable_reason
from m2f.modeling_m2f.kernels.ms_deform_attn_cuda import backward, forward

pytest_plugins = ("kernel_fixtures",)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ODD = [(97, 131), (1, 1), (13, 7), (30, 2)]
make_inputs = functools.partial(make_inputs_anywhere, queries=77, device="cuda")


def test_kernel_is_available():
    assert unavailable_reason(torch.device("cuda")) is None


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("head_dim", [8, 16, 24, 32, 64])
@pytest.mark.parametrize("points", [1, 4, 8])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_kernel_equals_reference(dtype, head_dim, points, levels):
    check_against_reference(make_inputs(ODD[:levels], dtype, head_dim, points))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("head_dim, points", [(12, 3), (5, 5), (65, 4), (128, 2)])
def test_sizes_of_no_special_form(dtype, head_dim, points):
    check_against_reference(make_inputs(ODD, dtype, head_dim, points))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("batch, reference_batch", [(1, 1), (3, 1), (3, 3)])
def test_reference_points_of_one_or_all_images(dtype, batch, reference_batch):
    check_against_reference(make_inputs(ODD[:3], dtype, batch=batch, reference_batch=reference_batch))


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("head_dim", [8, 32, 64])
def test_deterministic_kernel_equals_reference(dtype, head_dim):
    check_against_reference(make_inputs(ODD, dtype, head_dim))


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_deterministic_kernel_repeats_bit_for_bit(dtype):
    # Twenty cells for 4000 queries: thousands of additions meet in each.
    arguments = make_inputs([(5, 4)], dtype, queries=4000)
    grad_out = make_grad_out(arguments)
    first = backward(grad_out, *arguments, ALL)
    for _ in range(10):
        assert all(map(torch.equal, first, backward(grad_out, *arguments, ALL)))


def test_all_gradients_but_the_values_repeat_bit_for_bit():
    arguments = make_inputs([(5, 4)], torch.float32, queries=4000)
    grad_out = make_grad_out(arguments)
    first = backward(grad_out, *arguments, ALL)[1:]
    for _ in range(10):
        assert all(map(torch.equal, first, backward(grad_out, *arguments, ALL)[1:]))


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["grad_out", "logits"])
def test_deterministic_gradient_of_non_finite_numbers_is_nan(bad, where):
    arguments = make_inputs(ODD[:3], torch.bfloat16)
    grad_out = make_grad_out(arguments)
    (grad_out if where == "grad_out" else arguments[4])[1, 2, 1] = bad
    assert backward(grad_out, *arguments, (True, False, False, False))[0].isnan().all()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shift", [1, 2, 4])
def test_unaligned_views(dtype, shift):
    def shifted(tensor):
        view = torch.empty(tensor.numel() + shift, dtype=tensor.dtype, device="cuda")[shift:].view_as(tensor)
        return view.copy_(tensor)

    value, shapes, *others = make_inputs(ODD[:3], dtype)
    check_against_reference((shifted(value), shapes, *map(shifted, others)))


def test_views_that_are_not_contiguous():
    value, shapes, reference, offsets, logits = make_inputs(ODD[:3], torch.float32)
    strided = value.transpose(1, 2).contiguous().transpose(1, 2)
    wide = torch.cat([logits, logits], -1)[..., : logits.shape[-1]]
    one = reference[:1].expand(2, -1, -1, -1)
    every_other = torch.stack([offsets, offsets], -1)[..., 0]
    check_against_reference((strided, shapes, one, every_other, wide))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 3e38])
def test_offset_that_is_no_location_samples_nothing(bad):
    """It equals an offset far outside the map, whose sample is zero by definition, and its own gradient is zero."""
    arguments = make_inputs(ODD[:3], torch.float32)
    grad_out = make_grad_out(arguments)
    arguments[3][0, 1, 0, 2, 3] = 1e6
    wanted, wanted_grads = expected(arguments, grad_out)
    arguments[3][0, 1, 0, 2, 3] = torch.tensor([bad, 0.0])
    assert_near(forward(*arguments), wanted, torch.float32, "out")
    for name, grad, wanted_grad in zip(NAMES, backward(grad_out, *arguments, ALL), wanted_grads, strict=True):
        assert_near(grad, wanted_grad, torch.float32, name)


def test_all_offsets_nan_touch_nothing():
    arguments = make_inputs(ODD[:3], torch.float32)
    arguments[3].fill_(float("nan"))
    assert not forward(*arguments).any()
    assert not any(grad.any() for grad in backward(make_grad_out(arguments), *arguments, ALL))


def test_other_stream():
    """The kernel waits for work queued before it on a stream that is not the default one."""
    arguments = make_inputs(ODD[:3], torch.float32)
    wanted, stream = forward(*arguments), torch.cuda.Stream()
    torch.cuda.synchronize()
    value, shapes, *others = arguments
    with torch.cuda.stream(stream):
        late = torch.zeros_like(value)
        torch.cuda._sleep(50_000_000)  # cycles: tens of milliseconds
        late += value
        out = forward(late, shapes, *others)
    stream.synchronize()
    assert torch.equal(out, wanted)


@pytest.mark.parametrize("reproducible", [False, True])
def test_cuda_graph(reproducible):
    """Captured without a launch before, so the kernel is also loaded while a stream is captured; then replayed on
    other numbers."""
    arguments = make_inputs(ODD[:3], torch.float32, 16, 2 + reproducible, queries=50)
    static, other = (*arguments, make_grad_out(arguments)), []
    for tensor in static:
        other.append(tensor.flip(1) if isinstance(tensor, torch.Tensor) else tensor)
    graph = torch.cuda.CUDAGraph()
    torch.use_deterministic_algorithms(reproducible)
    try:
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            out = forward(*static[:5])
            grads = backward(static[5], *static[:5], ALL)
        for tensor, numbers in zip(static, other, strict=True):
            if isinstance(tensor, torch.Tensor):
                tensor.copy_(numbers)
        for _ in range(2):
            graph.replay()
        torch.cuda.synchronize()
    finally:
        torch.use_deterministic_algorithms(False)
    wanted, wanted_grads = expected(static[:5], static[5])
    assert_near(out, wanted, torch.float32, "out")
    for name, grad, wanted_grad in zip(NAMES, grads, wanted_grads, strict=True):
        assert_near(grad, wanted_grad, torch.float32, name)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_device_that_is_not_current():
    arguments = make_inputs(ODD[:3], torch.float32)
    wanted = forward(*arguments)
    elsewhere = [t.to("cuda:1") if isinstance(t, torch.Tensor) else t for t in arguments]
    assert torch.equal(forward(*elsewhere).to("cuda:0"), wanted)


@pytest.mark.parametrize("batch, count", [(0, 5), (2, 0)])
def test_empty_batch_or_no_queries(batch, count):
    arguments = make_inputs(ODD[:2], torch.float32, batch=batch, queries=count)
    out = forward(*arguments)
    assert out.shape == (batch, count, 96)
    grads = backward(out, *arguments, ALL)
    assert [grad.shape for grad in grads] == [t.shape for t in (arguments[0], *arguments[2:])]
    assert not any(grad.any() for grad in grads)


def test_more_than_2_to_31_elements():
    """The last of three images lies beyond element 2^31 of the value; it is compared with itself alone."""
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs 40 GB")
    shape, heads, head_dim = (1200, 1200), 8, 64  # 737 million elements an image, 4.4 GB for three in float16
    value = torch.empty(3, shape[0] * shape[1], heads, head_dim, dtype=torch.float16, device="cuda").normal_()
    assert value[:2].numel() < 2**31 < value.numel()
    reference, offsets, logits = make_queries(1, heads, 4, torch.float16, 3, 77, device="cuda")
    grad_out = make_grad_out((value, [shape], reference, offsets, logits))
    last = (value[2:], [shape], reference[2:], offsets[2:], logits[2:])
    out = forward(value, [shape], reference, offsets, logits)
    assert torch.equal(out[2:], forward(*last))
    grads = backward(grad_out, value, [shape], reference, offsets, logits, ALL)
    for name, grad, alone in zip(NAMES, grads, backward(grad_out[2:], *last, ALL), strict=True):
        torch.testing.assert_close(grad[2:], alone, rtol=1e-3, atol=1e-5, msg=name)


def test_one_image_of_more_than_2_to_31_elements():
    """Cells at the far end of one image, whose offset from its first cell needs more than 32 bits."""
    if torch.cuda.get_device_properties(0).total_memory < 24 * 2**30:
        pytest.skip("needs 24 GB")
    shape, heads, head_dim = (2100, 2100), 8, 64
    value = torch.empty(1, shape[0] * shape[1], heads, head_dim, dtype=torch.float16, device="cuda").normal_()
    assert value.numel() > 2**31
    reference, offsets, logits = make_queries(1, heads, 4, torch.float16, 1, 77, device="cuda")
    reference.fill_(1 - 8 / 2100)
    rows = value.view(1, *shape, heads, head_dim)[:, -64:, -64:].flatten(1, 2)  # the same cells as a map of their own
    nearby = torch.full_like(reference, 1 - 8 / 64)
    out, wanted = (
        forward(value, [shape], reference, offsets, logits),
        forward(rows.contiguous(), [(64, 64)], nearby, offsets, logits),
    )
    # A location of 2092 has an error of 2^-13 cells, and neighbouring cells differ by up to 8.
    torch.testing.assert_close(out, wanted, rtol=0, atol=4e-3)
