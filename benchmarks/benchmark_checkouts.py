"""Two checkouts of this project in turn: whether a change made inference or a training step slower.

    git worktree add ../before main
    python benchmarks/benchmark_checkouts.py ../before . --out checkouts.json

Each checkout has a process of its own for a case, and the two take turns, so that whatever else the machine does meets
both. Ratios are of neighbours: above 1, the second is slower.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

# Inference: backbone, edge, type. A training step: edge, batch, masks of an image.
CASES = {
    "inference swin-tiny 640 float32": ("swin-tiny", 640, "float32"),
    "inference resnet-50 640 float32": ("resnet-50", 640, "float32"),
    "inference swin-tiny 640 bfloat16": ("swin-tiny", 640, "bfloat16"),
    "inference swin-tiny 256 float32": ("swin-tiny", 256, "float32"),
    "training step 512x2x20": (512, 2, 20),
}


def serve(case: tuple, threads: int):
    """Prints the seconds of one more run for each line that comes."""
    import torch

    torch.set_num_threads(threads)
    run = _inference(*case) if isinstance(case[0], str) else _training_step(*case)
    run()
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


def _inference(backbone: str, edge: int, dtype: str):
    import torch

    from m2f.bench.compared_models import make_form

    form, pixels = make_form("ours", backbone, getattr(torch, dtype), "cpu"), torch.randn(1, 3, edge, edge)
    return lambda: form(pixels)


def _training_step(*case: int):
    from training_step_forms import FORMS, Step, make_batch

    step, batch = Step(FORMS[0], "cpu", None), make_batch(FORMS[0], *case, "cpu")
    return lambda: step(batch)


class Worker:
    def __init__(self, checkout: Path, name: str, threads: int):
        command = [sys.executable, __file__, str(checkout), str(checkout), "--serve", name, "--threads", str(threads)]
        folders = os.pathsep.join(str(path) for path in (checkout, checkout / "benchmarks"))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": folders}, text=True, **pipes)

    def seconds(self) -> float:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.communicate()


def compare(args: argparse.Namespace, name: str) -> dict:
    """A row of the results."""
    from m2f.bench.measurement_report import spread

    workers = [Worker(checkout.resolve(), name, args.threads) for checkout in (args.before, args.after)]
    pairs = []
    for i in range(args.repetitions + 1):
        turn = workers if i % 2 else workers[::-1]
        found = {worker: worker.seconds() for worker in turn}
        pairs.append([found[worker] for worker in workers])
    for worker in workers:
        worker.close()
    before, after = zip(*pairs[1:], strict=True)
    ratios = [y / x for x, y in pairs[1:]]
    return {"case": name, "before": spread(before), "after": spread(after), "ratio": spread(ratios)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout")
    parser.add_argument("after", type=Path, help="another")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="json file for the rows")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(CASES[args.serve], args.threads)
        return
    from m2f.bench.measurement_report import machine, write_results

    rows = []
    for name in args.cases:
        rows.append(compare(args, name))
        print(name, *(f"{key} {rows[-1][key]}" for key in ("before", "after", "ratio")))
        write_results({"machine": machine(threads=args.threads), "rows": rows}, args.out)


if __name__ == "__main__":
    main()
