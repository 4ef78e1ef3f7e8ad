"""The op on a GPU: the first run's check, autograd, autocast, compile, CUDA graphs, and what goes to plain PyTorch."""

import functools
import subprocess
import sys

import pytest
import torch
from ms_deform_attn_cuda_cases import TOLERANCES, assert_near, expected, make_grad_out
from ms_deform_attn_cuda_cases import make_inputs as make_inputs_anywhere
from ms_deform_attn_inputs import tensors

from m2f.modeling_m2f.kernels.kernel_policy import warned
from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn
from m2f.modeling_m2f.kernels.ms_deform_attn_cuda_check import TOLERANCES as CHECKED
from m2f.modeling_m2f.kernels.ms_deform_attn_cuda_check import first_run_failure

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SHAPES = [(13, 7), (20, 31), (1, 1)]
NAMES = ("value", "reference_points", "sampling_offsets", "attention_logits")
make_inputs = functools.partial(make_inputs_anywhere, queries=77, device="cuda")


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    """A test that meant to run the kernel must not pass because it fell back."""
    monkeypatch.setenv("M2F_KERNELS", "compiled")
    warned.clear()


def with_gradients(arguments):
    return [x.requires_grad_() if isinstance(x, torch.Tensor) else x for x in arguments]


@pytest.mark.parametrize("dtype", CHECKED)
def test_the_first_run_finds_nothing(dtype):
    assert first_run_failure(torch.device("cuda:0"), dtype) is None


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("reproducible", [False, True])
def test_output_and_gradients(dtype, reproducible):
    arguments = with_gradients(make_inputs(SHAPES, dtype))
    grad_out = make_grad_out(arguments).detach()
    wanted, wanted_grads = expected([x.detach() if isinstance(x, torch.Tensor) else x for x in arguments], grad_out)
    torch.use_deterministic_algorithms(reproducible)
    try:
        out = ms_deform_attn(*arguments)
        grads = torch.autograd.grad(out, tensors(arguments), grad_out)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_near(out, wanted, dtype, "out")
    for name, grad, wanted_grad in zip(NAMES, grads, wanted_grads, strict=True):
        assert_near(grad, wanted_grad, dtype, name)


def test_autocast_keeps_half_precision_and_widens_mixtures():
    value, shapes, reference, offsets, logits = make_inputs(SHAPES, torch.float16)
    with torch.autocast("cuda", torch.float16):
        assert ms_deform_attn(value, shapes, reference, offsets, logits).dtype == torch.float16
        assert ms_deform_attn(value, shapes, reference, offsets.float(), logits).dtype == torch.float32


def test_opcheck():
    value, shapes, *others = with_gradients(make_inputs(SHAPES[:2], torch.float32, 8, 2, queries=5))
    flat = [length for shape in shapes for length in shape]
    ms_deform_attn(value, shapes, *others)  # defines the operator
    results = torch.library.opcheck(torch.ops.m2f.ms_deform_attn_v1.default, (value, flat, *others))
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_without_a_graph_break(backend):
    arguments = with_gradients(make_inputs(SHAPES, torch.float32))
    out, wanted = (
        torch.compile(ms_deform_attn, fullgraph=True, backend=backend)(*arguments),
        ms_deform_attn(*arguments),
    )
    torch.testing.assert_close(out, wanted)
    # The value's gradient is summed in an order that is not fixed.
    grads = (torch.autograd.grad(x.sum(), tensors(arguments)) for x in (out, wanted))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_cuda_graph_replays_on_other_numbers():
    arguments = make_inputs(SHAPES, torch.float32)
    ms_deform_attn(*arguments)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        out = ms_deform_attn(*arguments)
    for tensor in tensors(arguments):
        tensor.copy_(tensor.flip(1))
    graph.replay()
    torch.testing.assert_close(out, ms_deform_attn(*arguments), rtol=0, atol=0)


def test_without_a_call_before_a_graph_holds_plain_pytorch(monkeypatch):
    monkeypatch.setattr("m2f.modeling_m2f.kernels.ms_deform_attn_cuda_check._failures", {})
    monkeypatch.setenv("M2F_KERNELS", "auto")
    arguments = make_inputs(SHAPES, torch.float32)
    graph = torch.cuda.CUDAGraph()
    with pytest.warns(RuntimeWarning, match="call it once before capturing"):
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            out = ms_deform_attn(*arguments)
    graph.replay()
    torch.testing.assert_close(out, ms_deform_attn(*arguments), rtol=1e-4, atol=1e-4)


def test_double_precision_runs_in_plain_pytorch(monkeypatch):
    monkeypatch.setenv("M2F_KERNELS", "auto")
    value, shapes, *others = make_inputs(SHAPES, torch.float32)
    with pytest.warns(RuntimeWarning, match="no torch.float64"):
        out = ms_deform_attn(value.double(), shapes, *(x.double() for x in others))
    assert out.dtype == torch.float64


def test_nothing_waits_for_the_device_after_the_first_call():
    arguments = with_gradients(make_inputs(SHAPES, torch.float32))
    ms_deform_attn(*arguments).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ms_deform_attn(*arguments).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_first_use_takes_less_than_a_second(tmp_path, monkeypatch):
    """With an empty cache, from the call to the result; starting CUDA itself comes before."""
    program = (
        "import time, torch\n"
        "from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn\n"
        "value = torch.zeros(1, 21, 8, 32, device='cuda')\n"
        "others = [torch.zeros(size, device='cuda') for size in\n"
        "          ((1, 9, 3, 2), (1, 9, 8, 3, 4, 2), (1, 9, 8, 12))]\n"
        "torch.cuda.synchronize()\n"
        "start = time.perf_counter()\n"
        "ms_deform_attn(value, [(1, 1), (2, 2), (4, 4)], *others)\n"
        "torch.cuda.synchronize()\n"
        "print(time.perf_counter() - start)\n"
    )
    monkeypatch.setenv("M2F_CACHE", str(tmp_path / "cache"))
    seconds = []
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        seconds.append(float(run.stdout))
    assert seconds[0] < 1 and seconds[1] < 0.3, seconds
