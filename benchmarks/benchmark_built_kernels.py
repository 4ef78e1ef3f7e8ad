"""Kernels built ahead beside those compiled for this very processor: what the wheel's libraries cost in time.

    python benchmarks/benchmark_built_kernels.py WHEEL --out benchmarks/results/built_kernels_cpu.json

WHEEL is this machine's, from scripts/build_wheels.py. Two processes run the same code from it and take turns, one with
M2F_KERNELS=native, the other with M2F_KERNELS=compiled and a PATH without a compiler. Ratios are of neighbours: above
1, what was built ahead is slower.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from benchmark_checkouts import CASES

USUAL = ["inference swin-tiny 640 float32", "inference swin-tiny 256 float32", "training step 512x2x20"]
FORMS = {"native": ("native", None), "built ahead": ("compiled", "")}  # M2F_KERNELS, PATH


class Worker:
    """A process that measures a case once for each line that it is sent, as benchmark_checkouts.py does."""

    def __init__(self, package: str, case: str, threads: int, form: str):
        here = Path(__file__).resolve().parent
        kernels, path = FORMS[form]
        folders = os.pathsep.join([package, str(here)])
        environment = os.environ | {"PYTHONPATH": folders, "M2F_KERNELS": kernels}
        if path is not None:
            environment = {name: value for name, value in environment.items() if name != "CXX"} | {"PATH": path}
        words = ["benchmark_checkouts.py", package, package, "--serve", case, "--threads", str(threads)]
        command = [sys.executable, str(here / words[0]), *words[1:]]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        # Elsewhere than in a checkout, whose package would be found first.
        self.process = subprocess.Popen(command, env=environment, cwd=package, text=True, **pipes)

    def seconds(self) -> float:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.communicate()


def compare(package: str, case: str, threads: int, repetitions: int) -> dict:
    """A row of the results."""
    from m2f.bench.measurement_report import spread

    workers = [Worker(package, case, threads, form) for form in FORMS]
    pairs = []
    for i in range(repetitions + 1):
        found = {worker: worker.seconds() for worker in (workers if i % 2 else workers[::-1])}
        pairs.append([found[worker] for worker in workers])
    for worker in workers:
        worker.close()
    native, built = zip(*pairs[1:], strict=True)
    ratios = [y / x for x, y in pairs[1:]]
    return {"case": case, "native": spread(native), "built ahead": spread(built), "ratio": spread(ratios)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--cases", nargs="+", default=USUAL, choices=list(CASES), metavar="CASE")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="json file for the rows")
    args = parser.parse_args()
    from m2f.bench.measurement_report import machine, write_results
    from m2f.modeling_m2f.kernels.processor_level import processor_levels

    rows, about = [], {"wheel": args.wheel.name, "levels": processor_levels(), **machine(threads=args.threads)}
    with tempfile.TemporaryDirectory() as package:
        zipfile.ZipFile(args.wheel).extractall(package)
        for case in args.cases:
            rows.append(compare(package, case, args.threads, args.repetitions))
            print(case, *(f"{key} {rows[-1][key]}" for key in ("native", "built ahead", "ratio")), flush=True)
            write_results({"machine": about, "rows": rows}, args.out)


if __name__ == "__main__":
    main()
