"""Fixtures of the kernels' tests, which name this file as a plugin."""

import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from compiler_there import has_compiler
from torch.testing._internal.optests import OpCheckError

from m2f.modeling_m2f.kernels.kernel_cache import cached_file
from m2f.modeling_m2f.kernels.kernel_policy import KernelUnavailableError
from m2f.modeling_m2f.kernels.kernel_sources import read_source
from m2f.modeling_m2f.kernels.ms_deform_attn_choice import kernel_unavailable_reason
from m2f.modeling_m2f.kernels.ms_deform_attn_cuda import SOURCE

HERE = Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Without a compiler a wheel's kernels are tested in the sizes that it carries. Where no kernel was demanded, one
    that is missing must not be an error."""
    try:
        return (yield)
    except (KernelUnavailableError, OpCheckError) as error:
        missing = error if isinstance(error, KernelUnavailableError) else error.__cause__
        if not isinstance(missing, KernelUnavailableError) or has_compiler() or not _is_demanded():
            raise
        pytest.skip(f"not built ahead: {missing}")


def _is_demanded() -> bool:
    return os.environ.get("M2F_KERNELS") in ("compiled", "native")


@pytest.fixture
def cpu_kernels():
    """For tests that have nothing to say where kernels are neither built ahead nor compiled."""
    reason = kernel_unavailable_reason(torch.device("cpu"))
    if reason:
        pytest.skip(f"no kernel on this machine: {reason}")


@pytest.fixture
def compiled_kernel(cpu_kernels, monkeypatch):
    """A test that meant to run the CPU kernel must not pass because it fell back."""
    monkeypatch.setenv("M2F_KERNELS", "compiled")


@pytest.fixture
def threads():
    """Sets their number for a test, and lets little work use them all."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("m2f.modeling_m2f.kernels.c_arguments.WORK_PER_THREAD", 1)
        yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def host_library():
    """defines -> the CUDA kernel compiled for this CPU, with cuda_on_host.h in place of the GPU's built-ins.

    Kept in the kernels' cache, which runs and workers share.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++")
    release = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout
    text = (HERE / "cuda_on_host.h").read_text(encoding="utf-8") + read_source(SOURCE) + "\nM2F_HOST_ENTRY\n"

    def library(definitions):
        command = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", "-w", *(f"-D{k}={v}" for k, v in definitions)]

        def make(to):
            to.with_suffix(".cpp").write_text(text, encoding="utf-8")
            subprocess.run([*command, str(to.with_suffix(".cpp")), "-o", str(to)], check=True)

        identity = hashlib.sha256("\0".join([text, release, *command]).encode()).hexdigest()[:32]
        return ctypes.CDLL(str(cached_file(identity, ".so", make)))

    return library


@pytest.fixture
def on_host(host_library, monkeypatch):
    """Lets ms_deform_attn_cuda.py work on CPU tensors. Returns the list of what it launched."""
    launched = []

    def launch(text, name, definitions, grid, threads, arguments, device):
        launched.append(dict(definitions))
        host_library(definitions).run(ctypes.byref(arguments[0]), *grid, threads)

    monkeypatch.setattr("m2f.modeling_m2f.kernels.ms_deform_attn_cuda.launch", launch)
    return launched
