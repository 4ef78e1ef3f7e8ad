"""Kernels built ahead beside those compiled for this very processor: what the wheel's libraries cost in time.

    python benchmarks/benchmark_built_kernels.py WHEEL --out benchmarks/results/built_kernels_cpu.json

WHEEL is this machine's, from scripts/build_wheels.py. Two processes run the same code from it and take turns, one with
M2F_KERNELS=native, the other with M2F_KERNELS=compiled and a PATH without a compiler. Ratios are of neighbours: above
1, what was built ahead is slower.
"""

import argparse
import os
import tempfile
import zipfile
from pathlib import Path

from paired_processes import CASES, Worker, compare

from m2f.bench.measurement_report import machine, write_results
from m2f.modeling_m2f.kernels.processor_level import processor_levels

HERE = Path(__file__).resolve().parent
USUAL = ["inference swin-tiny 640 float32", "inference swin-tiny 256 float32", "training step 512x2x20"]


def environments() -> dict[str, dict[str, str]]:
    """Form -> variables of its process."""
    bare = {name: value for name, value in os.environ.items() if name != "CXX"}
    return {
        "native": {**os.environ, "M2F_KERNELS": "native"},
        "built ahead": {**bare, "M2F_KERNELS": "compiled", "PATH": ""},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--cases", nargs="+", default=USUAL, choices=list(CASES), metavar="CASE")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="json file for the rows")
    args = parser.parse_args()
    rows, about = [], {"wheel": args.wheel.name, "levels": processor_levels(), **machine(threads=args.threads)}
    with tempfile.TemporaryDirectory() as package:
        zipfile.ZipFile(args.wheel).extractall(package)
        for case in args.cases:
            workers = {
                form: Worker(Path(package), HERE, case, args.threads, environment)
                for form, environment in environments().items()
            }
            rows.append(compare(case, workers, args.repetitions))
            print(case, *(f"{key} {rows[-1][key]}" for key in (*workers, "ratio")), flush=True)
            write_results({"machine": about, "rows": rows}, args.out)


if __name__ == "__main__":
    main()
