"""Masked attention of the Transformer decoder: our kernel and torch's `scaled_dot_product_attention`, in one run.

    python benchmarks/benchmark_masked_attention.py --out masked_attention.json

100 queries, 8 heads of 32 channels, float32, on a CPU without gradients. A query sees any half of the cells, or one
stretch of a twentieth of them, as of an object. Each repetition runs one form after the other, so that whatever else
the machine does meets both; ratios are of neighbours.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from m2f.bench.measurement_report import machine, spread, write_results
from m2f.modeling_m2f.kernels.masked_attention import MASKED_ATTENTION, masked_attention

QUERIES, HEADS, HEAD_DIM = 100, 8, 32


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[400, 1600, 6400], help="of a feature level")
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="json file for the rows")
    return parser.parse_args()


def masks(cells: int) -> dict[str, Tensor]:
    """What a query sees, (1, 1, Q, S) bool each."""
    start = torch.randint(cells - cells // 20, (QUERIES, 1))
    place = torch.arange(cells)
    stretch = (place >= start) & (place < start + max(1, cells // 20))
    return {"any half": torch.rand(1, 1, QUERIES, cells) < 0.5, "a stretch": stretch[None, None]}


def as_torch(query: Tensor, key: Tensor, value: Tensor, keep: Tensor, heads: int) -> Tensor:
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=keep).transpose(1, 2).flatten(2)


FORMS = {"ours": masked_attention, "torch": as_torch}


def measure(cells: int, seen: str, keep: Tensor, repetitions: int) -> dict:
    """A row of the results."""
    inputs = [torch.randn(1, length, HEADS * HEAD_DIM) for length in (QUERIES, cells, cells)]
    times = {name: [] for name in FORMS}
    for repetition in range(repetitions + 1):
        for name, form in FORMS.items():
            start = time.perf_counter()
            form(*inputs, keep, HEADS)
            if repetition:  # the first one compiles
                times[name].append(time.perf_counter() - start)
    ratio = spread([theirs / ours for ours, theirs in zip(*times.values(), strict=True)])
    return {"cells": cells, "seen": seen, "seconds": {k: spread(v) for k, v in times.items()}, "ratio": ratio}


@torch.no_grad()
def main(args: argparse.Namespace):
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if reason := MASKED_ATTENTION.unavailable_reason(torch.float32, head_dim=HEAD_DIM):
        raise SystemExit(f"there is no kernel to measure: {reason}")
    results = {"machine": machine(threads=args.threads), "rows": []}
    for cells in args.cells:
        for seen, keep in masks(cells).items():
            row = measure(cells, seen, keep, args.repetitions)
            ours, theirs = (row["seconds"][name]["median"] * 1e3 for name in FORMS)
            print(f"{cells} cells, {seen}: {ours:.2f} ms, torch {theirs:.2f} ms, x {row['ratio']['median']:.2f}")
            results["rows"].append(row)
            write_results(results, args.out)


if __name__ == "__main__":
    main(parse_args())
