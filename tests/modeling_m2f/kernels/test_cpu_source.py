"""When a source's kernel runs, and what its library is compiled for."""

import pytest
import torch

from m2f.modeling_m2f.kernels.cpu_compiler import KernelLibrary
from m2f.modeling_m2f.kernels.cpu_source import CpuSource
from m2f.modeling_m2f.kernels.kernel_policy import KernelUnavailableError, warned
from m2f.modeling_m2f.kernels.kernel_sources import read_source

PLACE = "m2f.modeling_m2f.kernels.cpu_source"
CPU = torch.device("cpu")


@pytest.fixture
def loaded(monkeypatch) -> list[tuple[str, dict]]:
    """What libraries were asked for; none is compiled."""
    calls = []

    def load(*arguments) -> KernelLibrary:
        calls.append(arguments)
        return KernelLibrary(object(), "compiled", [])

    monkeypatch.setattr(f"{PLACE}.load_library", load)
    monkeypatch.setenv("M2F_KERNELS", "compiled")
    return calls


@pytest.fixture
def source() -> CpuSource:
    return CpuSource("masked_attention_cpu.cpp", "A test", (torch.float32, torch.bfloat16))


def test_a_type_and_sizes_are_macros(loaded, source):
    text = read_source("masked_attention_cpu.cpp")
    first = source.library(torch.bfloat16, head_dim=8)
    assert loaded == [(text, {"M2F_DTYPE": "bfloat16", "M2F_HEAD_DIM": 8})]
    assert source.library(torch.bfloat16, head_dim=8) is first and len(loaded) == 1
    assert source.library(torch.bfloat16, head_dim=16) is not first and len(loaded) == 2
    assert CpuSource("winograd_cpu.cpp", "A test").library() and loaded[2][1] == {}


def test_it_runs_on_a_cpu_in_its_types_where_it_is_wanted(loaded, source, monkeypatch):
    assert source.runs_on(CPU, torch.float32, head_dim=8) and CpuSource("winograd_cpu.cpp", "A test").runs_on(CPU)
    calls = len(loaded)
    assert not source.runs_on(torch.device("cuda", 0), torch.float32, head_dim=8)
    assert not source.runs_on(CPU, torch.float64, head_dim=8)
    monkeypatch.setenv("M2F_KERNELS", "reference")
    assert not source.runs_on(CPU, torch.float32, head_dim=16)
    monkeypatch.setenv("M2F_KERNELS", "fast")
    with pytest.raises(ValueError, match="'fast'.*auto, reference, compiled, native"):
        source.runs_on(CPU, torch.float32, head_dim=8)
    assert len(loaded) == calls  # nothing is compiled for an answer of no


def test_a_missing_compiler_is_asked_for_and_warned_about_once(monkeypatch, source):
    warned.clear()
    calls = []

    def missing(*_):
        calls.append(1)
        raise KernelUnavailableError("no C++ compiler: here")

    monkeypatch.setattr(f"{PLACE}.load_library", missing)
    monkeypatch.setenv("M2F_KERNELS", "auto")
    with pytest.warns(RuntimeWarning, match="A test runs in plain PyTorch on cpu.*compiler: here") as given:
        assert not any(source.runs_on(CPU, torch.float32, head_dim=8) for _ in range(3))
    assert len(given) == 1 and len(calls) == 1
    monkeypatch.setenv("M2F_KERNELS", "compiled")
    with pytest.raises(KernelUnavailableError, match="compiler: here"):
        source.runs_on(CPU, torch.float32, head_dim=8)


def test_the_choice_is_a_constant_of_a_compiled_graph(loaded):
    torch.compiler.reset()

    def function(x):
        return x + 1 if SOURCE_OF_A_GRAPH.runs_on(x.device, x.dtype, head_dim=x.shape[-1]) else x

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert torch.equal(compiled(torch.zeros(3)), torch.ones(3)) and len(loaded) == 1


SOURCE_OF_A_GRAPH = CpuSource("masked_attention_cpu.cpp", "A test", (torch.float32,))
