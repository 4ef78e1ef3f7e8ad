"""3x3 convolutions of large maps: Winograd's method and torch's convolution, in one run.

    python benchmarks/benchmark_winograd.py --out winograd.json

Those of the pixel decoder (256 channels, stride 4 of an image), float32, on a CPU without gradients, channels last.
Each repetition runs one form after the other, so that whatever else the machine does meets both; ratios are of
neighbours. `rounding` is the standard deviation of the difference from float64.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from m2f.bench.measurement_report import machine, spread, write_results
from m2f.modeling_m2f.convolution import OPERATOR
from m2f.modeling_m2f.kernels.operators import packet
from m2f.modeling_m2f.kernels.winograd import WINOGRAD

CHANNELS = 256


def as_torch(x: Tensor, weight: Tensor) -> Tensor:
    return conv2d(x, weight, padding=1)


FORMS = {"ours": packet(OPERATOR), "torch": as_torch}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [(160, 160), (200, 336), (256, 256)]
    parser.add_argument("--maps", nargs="+", type=_size, default=sizes, metavar="HEIGHTxWIDTH")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="json file for the rows")
    return parser.parse_args()


def _size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def measure(size: tuple[int, int], repetitions: int) -> dict:
    """A row of the results."""
    x = torch.randn(1, CHANNELS, *size).to(memory_format=torch.channels_last)
    weight = nn.Conv2d(CHANNELS, CHANNELS, 3, bias=False).weight.detach()
    exact = as_torch(x.double(), weight.double())
    rounding = {name: (form(x, weight).double() - exact).std().item() for name, form in FORMS.items()}
    times = {name: [] for name in FORMS}
    for _ in range(repetitions):
        for name, form in FORMS.items():
            start = time.perf_counter()
            form(x, weight)
            times[name].append(time.perf_counter() - start)
    ratio = spread([theirs / ours for ours, theirs in zip(*times.values(), strict=True)])
    return {"map": size, "seconds": {k: spread(v) for k, v in times.items()}, "ratio": ratio, "rounding": rounding}


@torch.no_grad()
def main(args: argparse.Namespace):
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if reason := WINOGRAD.unavailable_reason():
        raise SystemExit(f"there is no kernel to measure: {reason}")
    results = {"machine": machine(threads=args.threads), "rows": []}
    for size in args.maps:
        row = measure(size, args.repetitions)
        ours, theirs = (row["seconds"][name]["median"] * 1e3 for name in FORMS)
        print(f"{size[0]}x{size[1]}: {ours:.1f} ms, torch {theirs:.1f} ms, x {row['ratio']['median']:.2f}", flush=True)
        results["rows"].append(row)
        write_results(results, args.out)


if __name__ == "__main__":
    main(parse_args())
