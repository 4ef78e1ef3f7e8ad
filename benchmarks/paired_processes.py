"""Cases that processes measure in turn: `paired_processes.py CASE THREADS` prints the seconds of one more run for each
line that it is sent."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# Inference: backbone, edge, type. A training step: edge, batch, masks of an image.
CASES = {
    "inference swin-tiny 640 float32": ("swin-tiny", 640, "float32"),
    "inference resnet-50 640 float32": ("resnet-50", 640, "float32"),
    "inference swin-tiny 640 bfloat16": ("swin-tiny", 640, "bfloat16"),
    "inference swin-tiny 256 float32": ("swin-tiny", 256, "float32"),
    "training step 512x2x20": (512, 2, 20),
}


class Worker:
    """A process that measures a case.

    Args:
        package: folder that `import m2f` finds the library in; the process works there.
        benchmarks: folder of `training_step_forms.py`.
        environment: variables of the process, without PYTHONPATH.
    """

    def __init__(
        self, package: Path, benchmarks: Path, case: str, threads: int, environment: Mapping[str, str] = os.environ
    ):
        command = [sys.executable, str(Path(__file__).resolve()), case, str(threads)]
        variables = {**environment, "PYTHONPATH": os.pathsep.join([str(package), str(benchmarks)])}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=variables, cwd=package, text=True, **pipes)

    def seconds(self) -> float:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def compare(case: str, workers: Mapping[str, Worker], repetitions: int) -> dict:
    """A row of the results: seconds of both, which take turns, and the ratios of neighbours, second to first."""
    from m2f.bench.measurement_report import spread

    pairs = [_pair(list(workers.values()), bool(i % 2)) for i in range(repetitions + 1)][1:]
    for worker in workers.values():
        worker.process.communicate()
    columns = {name: spread([pair[i] for pair in pairs]) for i, name in enumerate(workers)}
    return {"case": case, **columns, "ratio": spread([second / first for first, second in pairs])}


def _pair(workers: Sequence[Worker], in_order: bool) -> list[float]:
    found = {worker: worker.seconds() for worker in (workers if in_order else workers[::-1])}
    return [found[worker] for worker in workers]


def _work(case: tuple):
    """What a run does."""
    import torch

    if isinstance(case[0], str):
        from m2f.bench.compared_models import make_form

        backbone, edge, dtype = case
        form, pixels = make_form("ours", backbone, getattr(torch, dtype), "cpu"), torch.randn(1, 3, edge, edge)
        return lambda: form(pixels)
    from training_step_forms import FORMS, Step, make_batch

    step, batch = Step(FORMS[0], "cpu", None), make_batch(FORMS[0], *case, "cpu")
    return lambda: step(batch)


def serve(case: str, threads: str):
    import torch

    torch.set_num_threads(int(threads))
    run = _work(CASES[case])
    run()
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
