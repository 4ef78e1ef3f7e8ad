"""The CUDA kernels without a GPU: NVRTC compiles them for every architecture, and the same text, compiled for the CPU
with cuda_on_host.h in place of the GPU's built-ins, is compared with the reference in float64."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from m2f.modeling_m2f.kernels.cuda_kernel import ENTRY, SOURCE, backward, forward, unavailable_reason
from m2f.modeling_m2f.kernels.kernel_sources import read_source
from m2f.modeling_m2f.kernels.ms_deform_attn_reference import ms_deform_attn_reference
from m2f.modeling_m2f.kernels.nvrtc import NvrtcError, compile_cubin, compile_program, nvrtc, supported_architectures

HERE = Path(__file__).parent
FORWARD, BACKWARD, DETERMINISTIC, FINISH = "forward", "backward<FloatSum>", "backward<FixedSum>", "finish"
NAMES = ("value", "reference_points", "sampling_offsets", "attention_logits")
ALL = (True, True, True, True)

# Of the largest number in the reference's result. float32: locations up to 131 cells have an error of 2^-17 cells,
# and gradients by location add up differences of neighbouring cells. Half types: rounding of results, 2^-11 or 2^-8.
TOLERANCES = {torch.float32: 2e-5, torch.float16: 5.2e-4, torch.bfloat16: 4e-3}


def defines(kernel, dtype, head_dim, levels, points, vector):
    names = ("M2F_KERNEL", "M2F_T", "M2F_HEAD_DIM", "M2F_LEVELS", "M2F_POINTS", "M2F_VECTOR")
    return dict(zip(names, map(str, (kernel, dtype, head_dim, levels, points, vector)), strict=True))


@pytest.fixture(scope="module")
def compiler():
    """Skips where NVRTC is not installed: PyTorch's CUDA wheels bring it, the test extra does elsewhere."""
    try:
        return nvrtc()
    except NvrtcError as error:
        pytest.skip(str(error))


MAIN_SHAPE = [
    (kernel, dtype, 32, 3, 4, vector)
    for dtype, vectors in (("float32", (4,)), ("float16", (8, 4)), ("bfloat16", (8, 4)))
    for kernel, vector in ((FORWARD, vectors[0]), (BACKWARD, vectors[-1]), (DETERMINISTIC, vectors[-1]), (FINISH, 4))
]
# Each head size, number of levels and of points, and vector size once; 12 and 40 stand for sizes of no special form.
OTHER_SHAPES = [
    (FORWARD, "float32", 8, 1, 1, 4),
    (FORWARD, "float16", 16, 2, 8, 8),
    (FORWARD, "bfloat16", 24, 4, 8, 8),
    (FORWARD, "float16", 64, 4, 4, 8),
    (FORWARD, "float32", 40, 3, 4, 1),
    (BACKWARD, "bfloat16", 8, 4, 8, 4),
    (BACKWARD, "float16", 16, 1, 1, 4),
    (BACKWARD, "float32", 24, 2, 4, 4),
    (BACKWARD, "float32", 64, 3, 4, 4),
    (BACKWARD, "bfloat16", 12, 3, 5, 2),
    (BACKWARD, "float16", 40, 3, 4, 1),
    (DETERMINISTIC, "float32", 64, 4, 8, 4),
]


@pytest.mark.parametrize("architecture", [80, 90, 100, 120])
def test_source_compiles_for_main_shape(compiler, architecture):
    if architecture not in supported_architectures():
        pytest.skip(f"this NVRTC compiles for {supported_architectures()} only")
    for case in MAIN_SHAPE:
        cubin = compile_cubin(read_source(SOURCE), defines(*case), f"sm_{architecture}")
        assert cubin[:4] == b"\x7fELF" and ENTRY.encode() in cubin


def test_source_compiles_for_other_shapes_without_warnings(compiler):
    for case in OTHER_SHAPES:
        cubin, log = compile_program(read_source(SOURCE), defines(*case), "sm_90")
        assert cubin[:4] == b"\x7fELF" and not log


def test_compile_error_carries_the_compilers_log(compiler):
    with pytest.raises(NvrtcError, match='identifier "undeclared" is undefined'):
        compile_cubin('extern "C" __global__ void kernel() { undeclared(); }', {}, "sm_90")


@pytest.fixture(scope="module")
def host_library(tmp_path_factory):
    """defines -> the kernel compiled for this CPU."""
    gxx = shutil.which("g++")
    if gxx is None:
        pytest.skip("there is no g++")
    folder, libraries = tmp_path_factory.mktemp("cuda_on_host"), {}

    def library(definitions):
        if definitions not in libraries:
            text, shared = folder / f"{len(libraries)}.cpp", folder / f"{len(libraries)}.so"
            text.write_text(f'#include "{HERE}/cuda_on_host.h"\n{read_source(SOURCE)}\nM2F_HOST_ENTRY\n')
            flags = [f"-D{name}={value}" for name, value in definitions]
            command = [gxx, "-std=c++17", "-O1", "-shared", "-fPIC", "-w", *flags, str(text), "-o", str(shared)]
            subprocess.run(command, check=True)
            libraries[definitions] = ctypes.CDLL(str(shared))
        return libraries[definitions]

    return library


@pytest.fixture
def on_host(host_library, monkeypatch):
    """Lets cuda_kernel.py work on CPU tensors. Returns the list of what it launched."""
    launched = []

    def launch(text, name, definitions, grid, threads, arguments, device):
        launched.append(dict(definitions))
        host_library(definitions).run(ctypes.byref(arguments[0]), *grid, threads)

    monkeypatch.setattr("m2f.modeling_m2f.kernels.cuda_kernel.launch", launch)
    return launched


def inputs(shapes, heads, head_dim, points, dtype, batch=2, queries=5, reference_batch=None, seed=0):
    """Locations from outside the map to its inside, none on a knot: there the derivative is not defined."""
    generator = torch.Generator().manual_seed(seed)
    cells, levels = sum(h * w for h, w in shapes), len(shapes)
    value = torch.randn(batch, cells, heads, head_dim, generator=generator).to(dtype)
    reference = torch.rand(reference_batch or batch, queries, levels, 2, generator=generator) * 1.2 - 0.1
    offsets = torch.randn(batch, queries, heads, levels, points, 2, generator=generator).mul(1.5).to(dtype)
    logits = torch.randn(batch, queries, heads, levels * points, generator=generator).mul(2).to(dtype)
    return value, shapes, reference, offsets, logits


def expected(arguments, grad_out):
    """The reference in float64 on the same numbers: result and the four gradients."""
    value, shapes, *others = arguments
    leaves = [t.double().requires_grad_() for t in (value, *others)]
    out = ms_deform_attn_reference(leaves[0], shapes, *leaves[1:])
    return out.detach(), torch.autograd.grad(out, leaves, grad_out.double())


def assert_near(actual, wanted, dtype, name):
    error = (actual.double() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-3)
    assert error <= TOLERANCES[dtype], f"{name}: {error:.2e} of the largest number"


def check_against_reference(arguments, needs=ALL):
    value, dtype = arguments[0], arguments[0].dtype
    grad_out = torch.randn(value.shape[0], arguments[3].shape[1], value.shape[2] * value.shape[3]).to(dtype)
    wanted, wanted_grads = expected(arguments, grad_out)
    out = forward(*arguments)
    assert out.dtype == dtype and out.shape == wanted.shape
    assert_near(out, wanted, dtype, "out")
    grads = backward(grad_out, *arguments, needs)
    for name, grad, wanted_grad, tensor, need in zip(
        NAMES, grads, wanted_grads, (value, *arguments[2:]), needs, strict=True
    ):
        assert (grad is not None) == need
        if need:
            assert grad.dtype == tensor.dtype and grad.shape == tensor.shape
            assert_near(grad, wanted_grad, dtype, name)


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
    torch.manual_seed(0)
    check_against_reference(inputs(shapes, 3, head_dim, points, dtype))


def test_wide_map_and_one_reference_for_all_images(on_host):
    torch.manual_seed(0)
    check_against_reference(inputs([(97, 131), (1, 40)], 1, 32, 4, torch.float32, batch=3, reference_batch=1))


@pytest.mark.parametrize(
    "needs", [(False, False, False, True), (True, False, False, False), (False, True, True, False)]
)
def test_only_what_is_needed_is_computed(on_host, needs):
    check_against_reference(inputs(ODD[:3], 2, 32, 4, torch.float32), needs)


def test_vectors_fit_head_dim_and_address(on_host):
    for dtype, head_dim, offset, vectors in (
        (torch.bfloat16, 32, 0, ("8", "4")),
        (torch.bfloat16, 32, 2, ("2", "2")),  # 4 bytes beside a multiple of 16
        (torch.float32, 32, 1, ("1", "1")),
    ):
        arguments = list(inputs(ODD[:3], 2, head_dim, 4, dtype))
        shifted = torch.empty(arguments[0].numel() + offset, dtype=dtype)[offset:].view_as(arguments[0])
        arguments[0] = shifted.copy_(arguments[0])
        check_against_reference(arguments)
        assert tuple(made["M2F_VECTOR"] for made in on_host[-2:]) == vectors


def test_unaligned_and_strided_inputs(on_host):
    value, shapes, reference, offsets, logits = inputs(ODD[:3], 2, 32, 4, torch.float16)
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
    arguments = list(inputs(ODD[:3], 2, 16, 4, torch.float32))
    grad_out = torch.randn(2, 5, 32)
    arguments[3][0, 1, 0, 2, 3] = 1e6
    wanted, wanted_grads = expected(arguments, grad_out)
    arguments[3][0, 1, 0, 2, 3] = torch.tensor([bad, 0.0])
    torch.use_deterministic_algorithms(deterministic)
    try:
        grads = backward(grad_out, *arguments, ALL)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_near(forward(*arguments), wanted, torch.float32, "out")
    for name, grad, wanted_grad in zip(NAMES, grads, wanted_grads, strict=True):
        assert_near(grad, wanted_grad, torch.float32, name)


def test_cells_of_no_sample_are_not_read(on_host):
    """Row 0 holds NaN and every location lies more than a cell below it, or outside the map."""
    value, shapes, reference, offsets, logits = inputs([(6, 5)], 2, 16, 4, torch.float32)
    value[:, :5] = float("nan")
    reference.fill_(0.5)
    offsets.clamp_(-0.9, 30)
    assert forward(value, shapes, reference, offsets, logits).isfinite().all()


def test_locations_on_knots_and_borders(on_host):
    """Cell centres, half-way points, edges and one cell outside. The result alone: gradients by location jump there.

    All numbers are exact in float32, so the tolerance is that of sums of 12 terms."""
    shapes = [(4, 8), (2, 2), (1, 1)]
    value, _, reference, offsets, logits = inputs(shapes, 1, 8, 4, torch.float32, batch=1, queries=60)
    reference.copy_(torch.randint(0, 17, reference.shape) / 16)
    offsets.copy_(torch.randint(-8, 9, offsets.shape) / 2)
    wanted, _ = expected((value, shapes, reference, offsets, logits), torch.zeros(1, 60, 8))
    torch.testing.assert_close(forward(value, shapes, reference, offsets, logits).double(), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("magnitude", [1.0, 1e-6, 3e4])
def test_fixed_point_gradient(on_host, dtype, magnitude):
    """Near the reference at any magnitude of grad_out that the dtype holds."""
    arguments = inputs(ODD[:3], 3, 16, 4, dtype, queries=40)
    grad_out = (torch.randn(2, 40, 48).clamp(-2, 2) * magnitude).to(dtype)
    torch.use_deterministic_algorithms(True)
    try:
        grads = backward(grad_out, *arguments, ALL)
    finally:
        torch.use_deterministic_algorithms(False)
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
    torch.use_deterministic_algorithms(True)
    try:
        grads = backward(grad_out, value, [(1, 1)], reference, offsets, logits, (True, False, False, False))
    finally:
        torch.use_deterministic_algorithms(False)
    assert grads[0].flatten().tolist() == [1.75 * queries] * 8


def test_fixed_point_gradient_does_not_depend_on_the_order(on_host):
    """Queries in another order reach the sums in another order: the gradient is the same bit for bit."""
    value, shapes, reference, offsets, logits = inputs([(3, 2), (2, 2)], 2, 8, 4, torch.float32, queries=300)
    grad_out, order = torch.randn(2, 300, 16), torch.randperm(300)
    needs = (True, False, False, False)
    shuffled = (grad_out[:, order], value, shapes, reference[:, order], offsets[:, order], logits[:, order], needs)
    plain = (grad_out, value, shapes, reference, offsets, logits, needs)
    assert not torch.equal(backward(*plain)[0], backward(*shuffled)[0])
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(backward(*plain)[0], backward(*shuffled)[0])
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("where", ["grad_out", "logits"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_fixed_point_gradient_of_non_finite_numbers_is_nan(on_host, where, bad):
    arguments = inputs(ODD[:3], 2, 16, 4, torch.float32)
    grad_out = torch.randn(2, 5, 32)
    (grad_out if where == "grad_out" else arguments[4])[1, 2, 1] = bad
    torch.use_deterministic_algorithms(True)
    try:
        grad_value = backward(grad_out, *arguments, (True, False, False, False))[0]
    finally:
        torch.use_deterministic_algorithms(False)
    assert grad_value.isnan().all()


@pytest.mark.parametrize("head_dim", [24, 65])  # lanes of a group: 8 for 6 runs of channels, 32 for 65
def test_grid_covers_groups_with_idle_lanes(on_host, head_dim):
    check_against_reference(inputs(ODD[1:2], 3, head_dim, 1, torch.float32, batch=1, queries=40))


def test_more_images_than_a_grid_has_rows(on_host, monkeypatch):
    monkeypatch.setattr("m2f.modeling_m2f.kernels.cuda_kernel.MAX_GRID_Y", 2)
    torch.manual_seed(0)
    check_against_reference(inputs(ODD[:3], 2, 32, 4, torch.float32, batch=5))


@pytest.mark.parametrize("batch, queries", [(0, 5), (2, 0)])
def test_empty_batch_or_no_queries(on_host, batch, queries):
    arguments = inputs(ODD[:2], 2, 8, 4, torch.float32, batch=batch, queries=queries)
    out = forward(*arguments)
    assert out.shape == (batch, queries, 16)
    grads = backward(out, *arguments, ALL)
    assert [grad.shape for grad in grads] == [t.shape for t in (arguments[0], *arguments[2:])]
    assert not any(grad.any() for grad in grads) and not on_host


def test_dtype_without_kernel_is_refused():
    with pytest.raises(ValueError, match="no torch.float64"):
        forward(*inputs(ODD[:2], 2, 8, 4, torch.float64))


def test_unavailable_on_a_cpu():
    assert unavailable_reason(torch.device("cpu")) == "cpu is no CUDA device"
