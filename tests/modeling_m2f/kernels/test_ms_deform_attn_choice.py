"""Which implementation of deformable attention runs: by device, dtype, size and M2F_KERNELS. Fake tensors
stand for those of a GPU."""

import pytest
import torch
from ms_deform_attn_cuda_cases import ALL, make_grad_out
from ms_deform_attn_cuda_cases import make_inputs as make_cuda_inputs
from ms_deform_attn_inputs import LEVELS, make_inputs
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from m2f.modeling_m2f.kernels.kernel_policy import KernelUnavailableError, warned
from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn
from m2f.modeling_m2f.kernels.ms_deform_attn_choice import kernel_unavailable_reason
from m2f.modeling_m2f.kernels.ms_deform_attn_cuda import MAX_CELLS, MAX_ROWS, limit_reason
from m2f.modeling_m2f.kernels.ms_deform_attn_cuda import backward as cuda_backward
from m2f.modeling_m2f.kernels.ms_deform_attn_cuda import forward as cuda_forward
from m2f.modeling_m2f.kernels.ms_deform_attn_op import _backward_on_cuda, _forward_on_cuda, define_operator
from m2f.modeling_m2f.kernels.ms_deform_attn_reference import ms_deform_attn_reference

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")

CHOICE = "m2f.modeling_m2f.kernels.ms_deform_attn_choice"
GPU, OTHER_GPU = torch.device("cuda:0"), torch.device("cuda:1")


@pytest.fixture(autouse=True)
def no_warning_was_given_yet():
    warned.clear()


def test_the_environment_chooses(monkeypatch):
    inputs = make_inputs(LEVELS[:2])
    calls = []
    monkeypatch.setattr(
        "m2f.modeling_m2f.kernels.ms_deform_attn.ms_deform_attn_reference", lambda *args: calls.append(1) or args[0]
    )
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
    monkeypatch.setattr(f"{CHOICE}.kernel_unavailable_reason", lambda device, dtype: "the compiler is on holiday")
    with pytest.raises(KernelUnavailableError, match="on holiday"):
        ms_deform_attn(*inputs)
    monkeypatch.setenv("M2F_KERNELS", "auto")
    with pytest.warns(RuntimeWarning, match="cpu.*on holiday") as warnings:
        for _ in range(3):
            out = ms_deform_attn(*inputs)
    assert len(warnings) == 1
    torch.testing.assert_close(out, ms_deform_attn_reference(*inputs))


def test_plain_pytorch_compiles_without_a_graph_break(monkeypatch):
    """Where a kernel is missing, the choice and its warning are made while the graph is traced."""
    inputs = make_inputs(LEVELS[:2])
    monkeypatch.setattr(f"{CHOICE}.kernel_unavailable_reason", lambda device, dtype: "of a reason for this test alone")
    monkeypatch.setenv("M2F_KERNELS", "auto")
    torch.compiler.reset()
    with pytest.warns(RuntimeWarning, match="for this test alone"):
        out = torch.compile(ms_deform_attn, fullgraph=True, backend="eager")(*inputs)
    torch.testing.assert_close(out, ms_deform_attn_reference(*inputs))


def test_devices_and_dtypes_without_a_kernel_are_named():
    for device, dtype, words in (
        ("cpu", torch.float8_e4m3fn, "CPU kernel has no torch.float8_e4m3fn"),
        ("cpu", torch.int32, "CPU kernel has no torch.int32"),
        ("cuda:0", torch.float64, "CUDA kernel has no torch.float64"),
        ("mps", torch.float32, "no kernel for mps devices"),
        ("meta", torch.float32, "no kernel for meta devices"),
    ):
        assert words in kernel_unavailable_reason(torch.device(device), dtype)
    assert kernel_unavailable_reason(torch.device("cpu"), torch.float16) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_not_asked_for():
    reason = kernel_unavailable_reason(GPU)
    assert reason in ("this PyTorch is built without CUDA", "PyTorch finds no CUDA device")


@pytest.fixture
def gpus(monkeypatch):
    """Two of them, of which the second one's first run fails. Returns the list of what ran since."""
    ran = []

    def reason(device, dtype):
        if dtype == torch.float64:
            return f"the CUDA kernel has no {dtype}"
        return None if device == GPU else "its first run failed"

    def reference(value, shapes, reference_points, offsets, logits):
        # A stand-in, because PyTorch without CUDA cannot index a fake tensor of a GPU.
        ran.append("plain PyTorch")
        return value.new_empty(*offsets.shape[:2], value.shape[2] * value.shape[3])

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.name() == "m2f::ms_deform_attn_v1":
                ran.append([x.dtype for x in args if isinstance(x, torch.Tensor)])
            return function(*args, **(kwargs or {}))

    monkeypatch.setattr("m2f.modeling_m2f.kernels.ms_deform_attn_cuda_check.cuda_unavailable_reason", reason)
    monkeypatch.setattr("m2f.modeling_m2f.kernels.ms_deform_attn.ms_deform_attn_reference", reference)
    monkeypatch.setenv("M2F_KERNELS", "auto")
    with FakeTensorMode(), Calls():
        yield ran


def attend(device, dtype, shapes=LEVELS[:2], queries=11, heads=3, head_dim=8):
    cells, levels, points, options = sum(h * w for h, w in shapes), len(shapes), 4, {"device": device, "dtype": dtype}
    out = ms_deform_attn(
        torch.empty(2, cells, heads, head_dim, **options),
        shapes,
        torch.empty(1, queries, levels, 2, device=device),
        torch.empty(2, queries, heads, levels, points, 2, **options),
        torch.empty(2, queries, heads, levels * points, **options),
    )
    assert (out.shape, out.device, out.dtype) == ((2, queries, heads * head_dim), device, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cuda_tensors_go_to_the_kernel_as_they_are(gpus, dtype):
    """float16 is widened on a CPU alone; reference points are float32."""
    attend(GPU, dtype)
    assert gpus == [[dtype, torch.float32, dtype, dtype]]


def test_the_choice_is_made_for_each_device(gpus):
    with pytest.warns(RuntimeWarning, match="plain PyTorch on cuda:1.*its first run failed") as warnings:
        for _ in range(2):
            attend(OTHER_GPU, torch.float32)
            attend(GPU, torch.float32)
    assert gpus == ["plain PyTorch", [torch.float32] * 4] * 2
    assert len(warnings) == 1


def test_double_precision_on_a_gpu_runs_in_plain_pytorch(gpus):
    with pytest.warns(RuntimeWarning, match="cuda:0.*no torch.float64"):
        attend(GPU, torch.float64)
    assert gpus == ["plain PyTorch"]


@pytest.mark.parametrize(
    "sizes",
    [
        {"shapes": [(MAX_CELLS, 1), (1, 1)]},
        {"queries": MAX_ROWS // 3 + 1},
        {"head_dim": MAX_ROWS // 3 + 1},
    ],
)
def test_sizes_beyond_the_cuda_kernels_limits_run_in_plain_pytorch(gpus, monkeypatch, sizes):
    with pytest.warns(RuntimeWarning, match=f"up to {MAX_CELLS} cells, {MAX_ROWS} queries"):
        attend(GPU, torch.float16, **sizes)
    assert gpus == ["plain PyTorch"]
    monkeypatch.setenv("M2F_KERNELS", "compiled")
    with pytest.raises(KernelUnavailableError, match="Split the input"):
        attend(GPU, torch.float16, **sizes)


def test_the_limits_themselves_are_allowed():
    assert limit_reason(MAX_CELLS, MAX_ROWS, 1, MAX_ROWS) is None
    for sizes in ((MAX_CELLS + 1, 1, 1, 1), (1, MAX_ROWS + 1, 1, 1), (1, 1, 2, MAX_ROWS)):
        assert "Split the input" in limit_reason(*sizes)


def test_the_operators_have_a_cuda_kernel():
    define_operator()
    for name in ("m2f::ms_deform_attn_v1", "m2f::ms_deform_attn_backward_v1"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)])
def test_the_cuda_kernels_arguments_and_results_are_the_operators(on_host, dtype, needs):
    """The dispatcher's side of CUDA, with the emulated kernel: it takes flat sizes, gives an empty tensor for what is
    not needed, and otherwise what the operators' fakes promise."""
    value, shapes, *others = make_cuda_inputs(LEVELS[:2], dtype, 8)
    flat = [length for shape in shapes for length in shape]
    grad_out = make_grad_out([value, shapes, *others])
    assert torch.equal(_forward_on_cuda(value, flat, *others), cuda_forward(value, shapes, *others))
    gradients = _backward_on_cuda(grad_out, value, flat, *others, *needs)
    wanted = list(cuda_backward(grad_out, value, shapes, *others, ALL))
    for i, need in enumerate(needs):
        wanted[i] = wanted[i] if need else wanted[i].new_empty(0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = torch.ops.m2f.ms_deform_attn_backward_v1(grad_out, value, flat, *others, *needs)
    for one, other, promised in zip(gradients, wanted, fake, strict=True):
        # The value's gradient is summed in an order that is fixed in the emulation.
        assert torch.equal(one, other)
        assert (one.shape, one.dtype, one.stride()) == (promised.shape, promised.dtype, promised.stride())
