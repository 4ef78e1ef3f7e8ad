"""Inference in bfloat16 and float16 beside float32, on this processor and on weaker ones that it plays.

    python benchmarks/benchmark_types.py --out benchmarks/results/types_cpu.json

oneDNN and PyTorch read once what a processor can do, so that each instruction set is a process of its own, in which
the types take turns. MKL, which multiplies a part of the float32 matrices, does not know these limits.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from m2f.bench.compared_models import make_form
from m2f.bench.measurement_report import machine, spread, write_results
from m2f.bench.paired_timing import paired_seconds

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# By name: oneDNN's and PyTorch's limits.
LIMITS = {
    "all of this processor": {},
    "AVX-512 without bfloat16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
}


def measure(args: argparse.Namespace) -> dict:
    """Rows of the backbones, in this process."""
    torch.set_num_threads(args.threads)
    rows = []
    for backbone in args.backbones:
        forms = {name: make_form("ours", backbone, dtype, "cpu") for name, dtype in TYPES.items()}
        pixels = torch.randn(1, 3, args.edge, args.edge)
        works = {name: functools.partial(form, pixels) for name, form in forms.items()}
        seconds = paired_seconds(works, args.repetitions)
        found = {
            name: {
                "seconds": spread(values),
                "of_float32": spread([x / y for x, y in zip(values, seconds["float32"], strict=True)]),
            }
            for name, values in seconds.items()
        }
        rows.append({"backbone": backbone, "edge": args.edge, "types": found})
    return {"machine": machine(threads=args.threads), "rows": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["swin-tiny", "resnet-50"])
    parser.add_argument("--edge", type=int, default=640, help="pixels (640)")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="json file for the rows")
    parser.add_argument("--here", action="store_true", help="measure in this process and print json")
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args)))
        return
    results = {}
    for name, limit in LIMITS.items():
        command = [sys.executable, __file__, *sys.argv[1:], "--here"]
        output = subprocess.run(command, env=os.environ | limit, stdout=subprocess.PIPE, text=True, check=True).stdout
        results[name] = json.loads(output.splitlines()[-1])
        for row in results[name]["rows"]:
            for kind, found in row["types"].items():
                shares = " / ".join(f"{x:.2f}" for x in found["of_float32"].values())
                print(f"{name}: {row['backbone']} {kind} {found['seconds']['median']:.2f} s, {shares} of float32's")
        write_results(results, args.out)


if __name__ == "__main__":
    main()
