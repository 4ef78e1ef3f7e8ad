"""The op against its plain PyTorch definition in float64, which is the truth for every dtype and device."""

import itertools
import multiprocessing
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import m2f
from m2f.modeling_m2f.kernels.cpu_compiler import KernelUnavailableError
from m2f.modeling_m2f.kernels.cpu_kernel import _loaded_gomp_parallel
from m2f.modeling_m2f.kernels.ms_deform_attn import kernel_unavailable_reason, ms_deform_attn
from m2f.modeling_m2f.kernels.ms_deform_attn_reference import ms_deform_attn_reference

ENTRY = "m2f.modeling_m2f.kernels.ms_deform_attn"
LEVELS = [(5, 7), (1, 1), (13, 3), (2, 9)]
# Of the output and of gradients, relative to their largest value: float32 rounds sums of some hundred products;
# bfloat16 has 8 bits, in its inputs (which the reference gets too) and in its results.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@pytest.fixture(autouse=True)
def compiled_kernel(monkeypatch):
    """A test that meant to run the kernel must not pass because it fell back."""
    if kernel_unavailable_reason("cpu"):
        pytest.skip(f"no kernel on this machine: {kernel_unavailable_reason('cpu')}")
    monkeypatch.setenv("M2F_KERNELS", "compiled")


def make_inputs(
    shapes, batch=2, queries=11, heads=3, head_dim=8, points=4, dtype=torch.float64, reference_batch=None, seed=0
):
    """Random inputs; some locations lie outside the map."""
    generator = torch.Generator().manual_seed(seed)
    cells, levels = sum(h * w for h, w in shapes), len(shapes)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    reference = torch.rand((reference_batch or batch, queries, levels, 2), generator=generator, dtype=torch.float64)
    return (
        normal(batch, cells, heads, head_dim).to(dtype).requires_grad_(),
        shapes,
        (1.4 * reference - 0.2).to(torch.promote_types(dtype, torch.float32)).requires_grad_(),
        (2 * normal(batch, queries, heads, levels, points, 2)).to(dtype).requires_grad_(),
        normal(batch, queries, heads, levels * points).to(dtype).requires_grad_(),
    )


def in_float64(inputs):
    return [x if isinstance(x, list) else x.detach().double().requires_grad_() for x in inputs]


def tensors(inputs):
    return [x for x in inputs if not isinstance(x, list)]


def check(inputs, tolerance):
    """Output and all four gradients against float64."""
    exact = in_float64(inputs)
    expected, actual = ms_deform_attn_reference(*exact), ms_deform_attn(*inputs)
    assert actual.dtype == inputs[0].dtype
    direction = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    direction = direction.to(actual.dtype)
    expected_gradients = torch.autograd.grad(expected, tensors(exact), direction.double())
    gradients = torch.autograd.grad(actual, tensors(inputs), direction)
    for name, one, other in zip(
        ("out", "value", "reference", "offsets", "logits"),
        (actual, *gradients),
        (expected, *expected_gradients),
        strict=True,
    ):
        scale = other.abs().max().clamp(min=1e-3)
        assert ((one.double() - other).abs().max() / scale) <= tolerance, name


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


def test_opcheck():
    value, _, *others = make_inputs([(3, 4), (2, 2)])
    results = torch.library.opcheck(torch.ops.m2f.ms_deform_attn_v1.default, (value, [3, 4, 2, 2], *others))
    assert set(results.values()) == {"SUCCESS"}


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


def test_results_do_not_depend_on_the_number_of_threads():
    inputs = make_inputs([(30, 40), (15, 20)], queries=1500, heads=8, head_dim=32, dtype=torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            out = ms_deform_attn(*inputs)
            results.append((out, *torch.autograd.grad(out.square().sum(), tensors(inputs))))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_torch_threads_and_own_threads_give_the_same_bits(monkeypatch):
    inputs = make_inputs([(30, 40), (15, 20)], queries=1500, heads=8, head_dim=32, dtype=torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        results = []
        for address in (_loaded_gomp_parallel(), None):
            monkeypatch.setattr(
                "m2f.modeling_m2f.kernels.cpu_kernel._loaded_gomp_parallel", lambda address=address: address
            )
            out = ms_deform_attn(*inputs)
            results.append((out, *torch.autograd.grad(out.square().sum(), tensors(inputs))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_without_a_graph_break(backend):
    inputs = make_inputs(LEVELS[:2])
    expected = ms_deform_attn(*inputs)
    gradients = torch.autograd.grad(expected.sum(), tensors(inputs))
    out = torch.compile(ms_deform_attn, fullgraph=True, backend=backend)(*inputs)
    torch.testing.assert_close(out, expected)
    for one, other in zip(torch.autograd.grad(out.sum(), tensors(inputs)), gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_export():
    class Attend(torch.nn.Module):
        def forward(self, value, reference, offsets, logits):
            return ms_deform_attn(value, LEVELS[:2], reference, offsets, logits)

    inputs = make_inputs(LEVELS[:2])
    program = torch.export.export(Attend(), tuple(tensors(inputs)))
    assert any("ms_deform_attn_v1" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*tensors(inputs)), ms_deform_attn(*inputs))


def test_autocast_widens_and_keeps_locations():
    value, shapes, reference, offsets, logits = make_inputs(LEVELS[:2], dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = ms_deform_attn(value.bfloat16(), shapes, reference, offsets, logits)
        half = ms_deform_attn(value.bfloat16(), shapes, reference, offsets.bfloat16(), logits.bfloat16())
    assert mixed.dtype == torch.float32 and half.dtype == torch.bfloat16
    torch.testing.assert_close(mixed, ms_deform_attn(value.bfloat16().float(), shapes, reference, offsets, logits))


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


def test_the_environment_chooses(monkeypatch):
    inputs = make_inputs(LEVELS[:2])
    calls = []
    monkeypatch.setattr(f"{ENTRY}.ms_deform_attn_reference", lambda *args: calls.append(1) or args[0])
    monkeypatch.setenv("M2F_KERNELS", "compiled")
    ms_deform_attn(*inputs)
    assert not calls
    monkeypatch.setenv("M2F_KERNELS", "reference")
    ms_deform_attn(*inputs)
    assert calls
    monkeypatch.setenv("M2F_KERNELS", "fast")
    with pytest.raises(ValueError, match="'fast'.*auto, reference, compiled"):
        ms_deform_attn(*inputs)


def test_a_missing_kernel_warns_once_or_raises_when_asked_for(monkeypatch):
    inputs = make_inputs(LEVELS[:2])
    monkeypatch.setattr(f"{ENTRY}.kernel_unavailable_reason", lambda device_type: "the compiler is on holiday")
    with pytest.raises(KernelUnavailableError, match="on holiday"):
        ms_deform_attn(*inputs)
    monkeypatch.setenv("M2F_KERNELS", "auto")
    with pytest.warns(RuntimeWarning, match="cpu.*on holiday") as warnings:
        for _ in range(3):
            out = ms_deform_attn(*inputs)
    assert len(warnings) == 1
    torch.testing.assert_close(out, ms_deform_attn_reference(*inputs))


def _in_child(queue, inputs):
    torch.set_num_threads(1)  # as a DataLoader's workers do
    queue.put(ms_deform_attn(*inputs).sum().item())


def test_forked_children_can_use_it():
    """After the parent has used it with threads, as before a DataLoader's workers start."""
    inputs = [
        x if isinstance(x, list) else x.detach() for x in make_inputs([(30, 40)], queries=1500, dtype=torch.float32)
    ]
    expected = ms_deform_attn(*inputs).sum().item()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_in_child, args=(queue, inputs)) for _ in range(2)]
    for child in children:
        child.start()
    sums = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
    # A sum over many elements may differ in its last digits between thread counts; the elements do not.
    assert sums == pytest.approx([expected] * 2, rel=1e-4)


def test_eight_processes_may_use_it_for_the_first_time_at_once(tmp_path):
    # The kernels alone: m2f's root imports transformers, which takes eight processes a minute.
    program = (
        "import sys, types, torch\n"
        "sys.modules['m2f'] = types.ModuleType('m2f')\n"
        f"sys.modules['m2f'].__path__ = {list(m2f.__path__)!r}\n"
        "assert 'transformers' not in sys.modules\n"
        "from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn\n"
        "out = ms_deform_attn(torch.ones(1, 6, 2, 8), [(2, 3)], torch.full((1, 4, 1, 2), 0.5),\n"
        "    torch.zeros(1, 4, 2, 1, 5, 2), torch.zeros(1, 4, 2, 5))\n"
        "torch.testing.assert_close(out, torch.ones(1, 4, 16))\n"
    )
    environment = {**os.environ, "M2F_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE) for _ in range(8)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors.decode()
    left = sorted(path.name for path in (tmp_path / "cache").iterdir())
    # One library for the probe of the machine and one for this head size, whichever process made it; no leftovers.
    assert len(left) == 2 and all(name.endswith(".so") for name in left), left
