import pytest
import torch
from compiler_there import needs_compiler

from m2f.modeling_m2f.kernels.cpu_compiler import KernelLibrary
from m2f.modeling_m2f.kernels.cpu_source import CpuSource
from m2f.modeling_m2f.kernels.kernel_report import CPU_SOURCES, cpu_kernel_report, kernel_report
from m2f.modeling_m2f.kernels.kernel_sources import CSRC
from m2f.modeling_m2f.kernels.ms_deform_attn_cpu import MS_DEFORM_ATTN
from m2f.modeling_m2f.kernels.nvrtc import nvrtc

REPORT = "m2f.modeling_m2f.kernels.kernel_report"
ORIGIN = "built ahead (x86-64-v3)", []
GPUS = [torch.device("cuda:0"), torch.device("cuda:1")]


def reasons(device, dtype):
    """The CPU's kernel is there; of two GPUs one has all but bfloat16, the other none; MPS has none."""
    if device.type == "cpu":
        return None
    if device == GPUS[0]:
        return "wrong numbers" if dtype == torch.bfloat16 else None
    return "no driver" if device.type == "cuda" else "there is no kernel for mps devices"


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    monkeypatch.setenv("M2F_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("M2F_KERNELS", raising=False)
    monkeypatch.setattr(f"{REPORT}.kernel_unavailable_reason", reasons)
    monkeypatch.setattr(CpuSource, "found", lambda self, *_, **__: KernelLibrary(object(), *ORIGIN))
    monkeypatch.setattr(f"{REPORT}._devices", lambda: [torch.device("cpu"), *GPUS, torch.device("mps")])
    monkeypatch.setattr(f"{REPORT}.architecture", lambda index: "sm_90")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")


@needs_compiler
def test_every_device_and_why(tmp_path):
    found = dict(kernel_report())
    assert found["M2F_KERNELS"] == "auto (not set)"
    assert found["kernel cache"] == str(tmp_path / "cache")
    assert found["cpu"] == f"C++ kernel, {torch.get_num_threads()} threads, built ahead (x86-64-v3)"
    assert found["cuda:0"] == "CUDA kernel (NVIDIA H100, sm_90) for float32, float16; plain PyTorch: wrong numbers"
    assert found["cuda:1"] == "plain PyTorch: no driver"
    assert found["mps"] == "plain PyTorch: there is no kernel for mps devices"


def test_the_setting_is_heeded(monkeypatch):
    monkeypatch.setenv("M2F_KERNELS", "reference")
    found = dict(kernel_report())
    assert found["M2F_KERNELS"] == "reference"
    assert {found[name] for name in ("cpu", "cuda:0", "mps")} == {"plain PyTorch: M2F_KERNELS=reference"}
    monkeypatch.setenv("M2F_KERNELS", "compiled")
    assert dict(kernel_report())["cuda:1"] == "no kernel, which M2F_KERNELS=compiled makes an error: no driver"
    monkeypatch.setenv("M2F_KERNELS", "fast")
    assert dict(kernel_report())["M2F_KERNELS"] == "'fast' is unknown; use one of auto, reference, compiled, native"


def test_missing_tools_are_findings(monkeypatch):
    def missing(name):
        raise OSError(f"{name} not found")

    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("m2f.modeling_m2f.kernels.nvrtc.library_folders", lambda: [])
    monkeypatch.setattr("ctypes.CDLL", missing)
    nvrtc.cache_clear()
    found = dict(kernel_report())
    nvrtc.cache_clear()
    assert "no-such-compiler" in found["C++ compiler"] and "nvidia-cuda-nvrtc" in found["NVRTC"]


@needs_compiler
@pytest.mark.parametrize("accelerator", [None, "xpu"])
def test_devices_of_this_machine(monkeypatch, accelerator):
    monkeypatch.undo()
    device = accelerator and torch.device(accelerator)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: device)
    names = [name for name, _ in kernel_report()]
    assert names[4:] == ["cpu", *([accelerator] if accelerator else [])]


def test_every_source_is_in_the_report():
    others = {source.file for source, _ in CPU_SOURCES.values()}
    assert {path.name for path in CSRC.glob("*.cpp")} == others | {MS_DEFORM_ATTN.file}


def test_other_kernels_and_why(monkeypatch):
    missing, _ = CPU_SOURCES["mask losses"]
    reason = "no C++ compiler: here"
    monkeypatch.setattr(CpuSource, "unavailable_reason", lambda self, **_: reason if self is missing else None)
    found = dict(cpu_kernel_report())
    assert list(found) == list(CPU_SOURCES)
    assert found.pop("mask losses") == f"plain PyTorch: {reason}"
    kernel = f"C++ kernel, {torch.get_num_threads()} threads"
    assert set(found.values()) == {f"{kernel}, built ahead (x86-64-v3)"}
    passed_over = KernelLibrary(object(), "compiled", ["x.so, built ahead, is passed over: why"])
    monkeypatch.setattr(CpuSource, "found", lambda self, *_, **__: passed_over)
    assert dict(cpu_kernel_report())["group norm"] == f"{kernel}, compiled; x.so, built ahead, is passed over: why"
    monkeypatch.setenv("M2F_KERNELS", "reference")
    assert set(dict(cpu_kernel_report()).values()) == {"plain PyTorch: M2F_KERNELS=reference"}
