"""How long the first use of the deformable-attention kernel takes: with an empty cache, and with a full one.

    python benchmarks/benchmark_kernel_loading.py --out benchmarks/results/kernel_loading_cpu.json

Each measurement is a process of its own, which imports the package first; only the call is timed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from m2f.bench.measurement_report import machine, spread, write_results

CALL = """
import sys, time, torch
from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn
device = sys.argv[1]
shapes = (1, 21, 8, 32), (1, 5, 8, 3, 4, 2), (1, 5, 8, 12)
value, offsets, logits = (torch.randn(shape, device=device, requires_grad=True) for shape in shapes)
reference = torch.rand(1, 5, 3, 2, device=device)
start = time.perf_counter()
out = ms_deform_attn(value, [(1, 1), (2, 2), (4, 4)], reference, offsets, logits)
float(out.sum())
forward = time.perf_counter()
out.sum().backward()
float(value.grad.sum())
print(forward - start, time.perf_counter() - forward)
"""


def first_use(cache: str, device: str) -> tuple[float, float]:
    """Seconds of the first forward and the first backward pass of a process."""
    root = Path(__file__).resolve().parent.parent
    environment = os.environ | {"M2F_CACHE": cache, "M2F_KERNELS": "compiled", "PYTHONPATH": str(root)}
    result = subprocess.run(
        [sys.executable, "-c", CALL, device], env=environment, capture_output=True, text=True, check=True
    )
    forward, backward = result.stdout.split()
    return float(forward), float(backward)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="json file for the rows")
    args = parser.parse_args()
    times = {"empty cache": [], "full cache": []}
    for _ in range(args.repetitions):
        with tempfile.TemporaryDirectory() as cache:
            for name in times:
                times[name].append(first_use(cache, args.device))
    rows = []
    for name, pairs in times.items():
        for kind, seconds in zip(("forward", "backward"), zip(*pairs, strict=True), strict=True):
            found = spread(seconds)
            rows.append({"cache": name, "pass": kind, "seconds": found})
            print(name, kind, " / ".join(f"{1e3 * x:.0f}" for x in found.values()), "ms (min / median / max)")
    about = {"device": args.device, **machine(args.device, cores=os.cpu_count())}
    write_results({"machine": about, "rows": rows}, args.out)


if __name__ == "__main__":
    main()
