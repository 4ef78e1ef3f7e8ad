"""The CUDA kernels' first run on a device, with the emulation in place of a GPU and broken kernels in its place."""

import contextlib

import pytest
import torch
from ms_deform_attn_cuda_cases import TOLERANCES

from m2f.modeling_m2f.kernels.ms_deform_attn_cuda import DETERMINISTIC, FORWARD, backward, forward
from m2f.modeling_m2f.kernels.ms_deform_attn_cuda_check import (
    HEAD_DIM,
    POINTS,
    SHAPES,
    _case,
    cuda_unavailable_reason,
    first_run_failure,
)
from m2f.modeling_m2f.kernels.nvrtc import NvrtcError

pytest_plugins = ("kernel_fixtures",)

CHECK = "m2f.modeling_m2f.kernels.ms_deform_attn_cuda_check"
CPU, GPU, OTHER_GPU = torch.device("cpu"), torch.device("cuda:0"), torch.device("cuda:1")


@pytest.fixture
def emulated(on_host, monkeypatch):
    """A machine whose GPU is the CPU. Returns the list of what was launched."""
    monkeypatch.setattr(f"{CHECK}._failures", {})
    monkeypatch.setattr(f"{CHECK}.compile_kernels", lambda *arguments: None)
    monkeypatch.setattr(f"{CHECK}.unavailable_reason", lambda device: None)
    monkeypatch.setattr(f"{CHECK}._is_capturing", lambda device: False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    return on_host


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_right_kernels_pass(emulated, dtype):
    assert first_run_failure(CPU, dtype) is None
    assert {made["M2F_KERNEL"] for made in emulated} >= {FORWARD, DETERMINISTIC}


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_case_stays_away_from_knots_and_leaves_the_maps(dtype):
    """A tenth of a cell, because a kernel's rounding must not put a sample on the other side of a knot."""
    _, shapes, reference, offsets, _ = _case(dtype)[0]
    size = torch.tensor([[width, height] for height, width in shapes])
    cells = reference[:, :, None, :, None] * size[:, None] - 0.5 + offsets.float()
    assert ((cells - cells.round()).abs() > 0.09).all()
    outside = ((cells < -1) | (cells > size[:, None])).any(-1)
    assert 0.05 < outside.float().mean() < 0.8


def wrong_output(*arguments):
    return forward(*arguments).roll(1, -1)


def output_with_nan(*arguments):
    out = forward(*arguments)
    out[-1, -1, -1] = float("nan")
    return out


def x_and_y_swapped(value, shapes, reference, offsets, logits):
    return forward(value, shapes, reference, offsets.flip(-1), logits)


def wrong_gradient(position, only_deterministic=False):
    def broken(*arguments):
        gradients = list(backward(*arguments))
        if arguments[-1] or not only_deterministic:
            gradients[position] = gradients[position] * 1.5
        return gradients

    return broken


def refuse(*arguments):
    raise NvrtcError("Launching m2f_ms_deform_attn: CUDA error 1, invalid argument.")


def fault(*arguments):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("name", "broken", "words"),
    [
        ("forward", wrong_output, ["cpu", "wrong numbers: output is off by"]),
        ("forward", output_with_nan, ["output is off by nan"]),
        ("forward", x_and_y_swapped, ["output is off by"]),
        ("backward", wrong_gradient(0), ["gradient of value is off by"]),
        ("backward", wrong_gradient(1), ["of reference points is off by"]),
        ("backward", wrong_gradient(2), ["of offsets is off by"]),
        ("backward", wrong_gradient(3), ["of logits is off by"]),
        ("backward", wrong_gradient(0, only_deterministic=True), ["gradient of value (deterministic) is off by"]),
        ("backward", refuse, ["failed: Launching m2f_ms_deform_attn: CUDA error 1"]),
        ("forward", fault, ["failed: CUDA error: an illegal memory access"]),
        ("compile_kernels", refuse, ["failed: Launching"]),
    ],
)
def test_broken_kernels_are_found(emulated, monkeypatch, dtype, name, broken, words):
    monkeypatch.setattr(f"{CHECK}.{name}", broken)
    reason = first_run_failure(CPU, dtype)
    assert reason and all(word in reason for word in (*words, str(dtype))), reason


def test_full_memory_is_no_verdict(emulated, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(f"{CHECK}.forward", full)
        cuda_unavailable_reason(CPU, torch.float32)
    assert cuda_unavailable_reason(CPU, torch.float32) is None


def test_the_callers_state_does_not_matter_and_is_not_changed(emulated):
    """Inference mode, autocast, hooks on saved tensors (as checkpoints have), another default dtype's generator."""

    def no_tensor_is_saved(tensor):
        raise AssertionError("the caller's hook saw a tensor of the check")

    state = torch.get_rng_state()
    with torch.autograd.graph.saved_tensors_hooks(no_tensor_is_saved, no_tensor_is_saved):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
            assert cuda_unavailable_reason(CPU, torch.float32) is None
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(no_tensor_is_saved, no_tensor_is_saved):
        assert cuda_unavailable_reason(CPU, torch.float16) is None
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("deterministic")
def test_both_ways_of_summing_are_run_whatever_is_asked_for(emulated):
    assert first_run_failure(CPU, torch.float32) is None
    backwards = [made["M2F_KERNEL"] for made in emulated if made["M2F_KERNEL"].startswith("backward")]
    assert backwards == ["backward<FloatSum>", "backward<FixedSum>"]
    assert torch.are_deterministic_algorithms_enabled()


@pytest.fixture
def first_runs(emulated, monkeypatch):
    """Devices and dtypes of the first runs so far; the one on cuda:1 fails."""
    runs = []

    def first_run(device, dtype):
        runs.append((device, dtype))
        return "broken" if device == OTHER_GPU else None

    monkeypatch.setattr(f"{CHECK}.first_run_failure", first_run)
    return runs


def test_one_first_run_for_each_device_and_dtype(first_runs):
    for _ in range(3):
        assert cuda_unavailable_reason(GPU, torch.float32) is None
        assert cuda_unavailable_reason(OTHER_GPU, torch.float32) == "broken"
        assert cuda_unavailable_reason(GPU, torch.bfloat16) is None
    assert first_runs == [(GPU, torch.float32), (OTHER_GPU, torch.float32), (GPU, torch.bfloat16)]


def test_nothing_is_run_while_a_graph_is_captured(first_runs, monkeypatch):
    capturing = [True]
    monkeypatch.setattr(f"{CHECK}._is_capturing", lambda device: capturing[0])
    assert "call it once before capturing" in cuda_unavailable_reason(GPU, torch.float32)
    assert not first_runs
    capturing[0] = False
    assert cuda_unavailable_reason(GPU, torch.float32) is None
    capturing[0] = True
    assert cuda_unavailable_reason(GPU, torch.float32) is None
    assert len(first_runs) == 1


def test_nothing_is_run_where_nothing_can_be(first_runs, monkeypatch):
    monkeypatch.setattr(f"{CHECK}.unavailable_reason", lambda device: "no driver")
    assert cuda_unavailable_reason(GPU, torch.float32) == "no driver"
    assert cuda_unavailable_reason(GPU, torch.float64) == "the CUDA kernel has no torch.float64"
    assert not first_runs


def test_the_case_has_the_models_sizes():
    """What the first run compiles is what Mask2Former needs next: 3 levels, 4 points, 256 / 8 channels a head."""
    assert (len(SHAPES), POINTS, HEAD_DIM) == (3, 4, 32)
