"""The CPU kernel with several threads, in forked children and in processes that race for the cache."""

import multiprocessing
import os
import subprocess
import sys

import pytest
import torch
from ms_deform_attn_inputs import make_inputs, tensors

import m2f
from m2f.modeling_m2f.kernels.c_arguments import _loaded_gomp_parallel
from m2f.modeling_m2f.kernels.cpu_compiler import find_compiler
from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")


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
                "m2f.modeling_m2f.kernels.c_arguments._loaded_gomp_parallel", lambda address=address: address
            )
            out = ms_deform_attn(*inputs)
            results.append((out, *torch.autograd.grad(out.square().sum(), tensors(inputs))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


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


# The kernels alone: m2f's root imports transformers. Forked after the imports, so that the children's first uses meet:
# none starts before the parent closes its end of the pipe. Before them one is killed while it compiles.
FIRST_USES = """
import os, signal, sys, time, traceback, types
from pathlib import Path
import torch

sys.modules["m2f"] = types.ModuleType("m2f")
sys.modules["m2f"].__path__ = {path!r}
from m2f.modeling_m2f.kernels.cpu_compiler import find_compiler
from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn

assert "transformers" not in sys.modules


def first_use():
    out = ms_deform_attn(torch.ones(1, 9, 2, 32), [(2, 3), (1, 1), (1, 2)], torch.full((1, 4, 3, 2), 0.5),
        torch.zeros(1, 4, 2, 3, 4, 2), torch.zeros(1, 4, 2, 12))
    torch.testing.assert_close(out, torch.ones(1, 4, 64))


killed, cache = os.fork(), Path(os.environ["M2F_CACHE"])
if not killed:
    first_use()
    os._exit(1)
while not list(cache.glob("making-*")):
    assert not os.waitpid(killed, os.WNOHANG)[0], "it ended before it compiled"
    time.sleep(0.005)
os.kill(killed, signal.SIGKILL)
assert os.waitpid(killed, 0)[1] == signal.SIGKILL
assert not list(cache.glob("*.so"))

read_end, write_end = os.pipe()
children = []
for _ in range(8):
    children.append(os.fork())
    if not children[-1]:
        try:
            os.close(write_end)
            os.read(read_end, 1)
            first_use()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
os.close(write_end)
codes = [os.waitpid(child, 0)[1] for child in children]
sys.exit(any(codes))
"""


def test_eight_processes_may_use_it_for_the_first_time_at_once_after_one_was_killed(tmp_path):
    find_compiler()
    environment = {**os.environ, "M2F_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "M2F_KERNELS": "native"}
    command = [sys.executable, "-c", FIRST_USES.format(path=list(m2f.__path__))]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    # One library, whichever process made it, because the probe of the machine has these sizes too; and what the killed
    # one left, which is removed when it is old (test_kernel_cache.py).
    left = sorted(path.suffix or path.name.split("-")[0] for path in (tmp_path / "cache").iterdir())
    assert left == [".so", "making"], left
