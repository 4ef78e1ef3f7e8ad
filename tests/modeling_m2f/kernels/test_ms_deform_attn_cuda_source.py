"""NVRTC compiles the CUDA kernels for every architecture, without a GPU."""

import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from m2f.modeling_m2f.kernels.cuda_driver import unavailable_reason
from m2f.modeling_m2f.kernels.kernel_sources import read_source
from m2f.modeling_m2f.kernels.ms_deform_attn_cuda import BACKWARD, DETERMINISTIC, ENTRY, FINISH, FORWARD, SOURCE
from m2f.modeling_m2f.kernels.nvrtc import (
    NvrtcError,
    cached_cubin,
    compile_cubin,
    compile_program,
    nvrtc,
    supported_architectures,
)

ARCHITECTURES = (80, 90, 100, 120)
DTYPES = ("float32", "float16", "bfloat16")
HEAD_DIMS, LEVELS, POINTS = (8, 16, 24, 32, 64), (1, 2, 3, 4), (1, 4, 8)
# Both ways of summing, the most numbers a lane loads, and sizes of no special form, whose lanes load fewer.
REPRESENTATIVES = [
    *((kernel, dtype, 32, 3, 4, 4) for kernel in (DETERMINISTIC, FINISH) for dtype in DTYPES),
    (FORWARD, "float32", 32, 3, 4, 4),
    (FORWARD, "bfloat16", 32, 3, 4, 8),
    (BACKWARD, "float32", 32, 3, 4, 4),
    (BACKWARD, "bfloat16", 32, 3, 4, 4),
    (FORWARD, "float32", 40, 3, 4, 1),
    (BACKWARD, "bfloat16", 12, 3, 5, 2),
    (BACKWARD, "float16", 40, 3, 4, 1),
    (DETERMINISTIC, "float32", 64, 4, 8, 4),
]


def defines(kernel, dtype, head_dim, levels, points, vector):
    names = ("M2F_KERNEL", "M2F_T", "M2F_HEAD_DIM", "M2F_LEVELS", "M2F_POINTS", "M2F_VECTOR")
    return dict(zip(names, map(str, (kernel, dtype, head_dim, levels, points, vector)), strict=True))


@pytest.fixture(scope="module", autouse=True)
def compiler():
    """Skips where NVRTC is not installed: PyTorch's CUDA wheels bring it, the test extra does elsewhere."""
    try:
        nvrtc()
    except NvrtcError as error:
        pytest.skip(str(error))
    if missing := set(ARCHITECTURES) - set(supported_architectures()):
        pytest.skip(f"this NVRTC does not compile for {sorted(missing)}")


def check_compiles(jobs):
    """Each job a kernel's sizes and an architecture; a warning fails too."""

    def compile_one(job):
        case, architecture = job
        cubin, log = compile_program(read_source(SOURCE), defines(*case), f"sm_{architecture}")
        assert cubin[:4] == b"\x7fELF" and ENTRY.encode() in cubin and not log, (job, log)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return len(list(pool.map(compile_one, jobs)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_representative_sizes_compile_for_every_architecture(architecture):
    check_compiles((case, architecture) for case in REPRESENTATIVES)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_every_size_compiles(dtype, head_dim):
    """Every combination for one architecture, which changes from one to the next.

    float32 forward and backward; of the half types, which differ by their conversion to float32 alone, the one forward
    where the other is backward, for the sake of time."""
    jobs = []
    for i, (levels, points) in enumerate(itertools.product(LEVELS, POINTS)):
        turn = i + i // len(ARCHITECTURES) + HEAD_DIMS.index(head_dim) + DTYPES.index(dtype)
        sizes = (dtype, head_dim, levels, points)
        if dtype == "float32" or turn % 2:
            jobs.append(((FORWARD, *sizes, 4 if dtype == "float32" else 8), ARCHITECTURES[turn // 2 % 4]))
        if dtype == "float32" or not turn % 2:
            jobs.append(((BACKWARD, *sizes, 4), ARCHITECTURES[(turn // 2 + 1) % 4]))
    assert check_compiles(jobs) == len(LEVELS) * len(POINTS) * (2 if dtype == "float32" else 1)


def test_compile_error_carries_the_compilers_log():
    with pytest.raises(NvrtcError, match='identifier "undeclared" is undefined'):
        compile_cubin('extern "C" __global__ void kernel() { undeclared(); }', {}, "sm_90")


def test_compiled_code_is_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("M2F_CACHE", str(tmp_path / "cache"))
    source = 'extern "C" __global__ void kernel(int* to) { *to = NUMBER; }'
    cached_cubin.cache_clear()
    first = cached_cubin(source, (("NUMBER", "1"),), "sm_90")
    monkeypatch.setattr("m2f.modeling_m2f.kernels.nvrtc.compile_cubin", lambda *arguments: b"compiled again")
    cached_cubin.cache_clear()
    assert cached_cubin(source, (("NUMBER", "1"),), "sm_90") == first
    for change in ((source, (("NUMBER", "2"),), "sm_90"), (source, (("NUMBER", "1"),), "sm_80")):
        assert cached_cubin(*change) == b"compiled again"
    cached_cubin.cache_clear()
    assert len(list((tmp_path / "cache").glob("*.cubin"))) == 3


def test_a_full_disk_does_not_matter(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr("m2f.modeling_m2f.kernels.nvrtc.cached_file", full)
    cached_cubin.cache_clear()
    assert cached_cubin('extern "C" __global__ void kernel() {}', (), "sm_90")[:4] == b"\x7fELF"
    cached_cubin.cache_clear()


def test_unavailable_on_a_cpu():
    assert unavailable_reason(torch.device("cpu")) == "cpu is no CUDA device"
