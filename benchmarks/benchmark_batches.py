"""Batches that the Segmenter chooses, beside one image or tile at a time.

    python benchmarks/benchmark_batches.py --out benchmarks/results/batches_cpu.json

The bundled checkpoint on examples/nuclei, in turn; start-up is not counted. Memory is the peak above what was held
before, of the same work. Segments are compared: as many, of the same masks but for some pixels.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from m2f.bench.measurement_report import machine, spread, write_results
from m2f.bench.peak_memory import can_measure, growth
from m2f.inference.segmenter import Segmenter

IMAGES = Path(__file__).resolve().parent.parent / "examples" / "nuclei"


def same(found, expected) -> dict[str, float]:
    """What differs between the results of the same images."""
    pairs = list(zip(found, expected, strict=True))
    return {
        "segments": sum(len(result) for result in found),
        "segments_one_at_a_time": sum(len(result) for result in expected),
        "largest_score_difference": max(
            (abs(a.score - b.score) for x, y in pairs for a, b in zip(x.segments, y.segments, strict=False)),
            default=0.0,
        ),
        "share_of_equal_pixels": float(np.mean([np.mean((x.label_map > 0) == (y.label_map > 0)) for x, y in pairs])),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="json file for the rows")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    images = sorted(path for path in IMAGES.rglob("*.png"))[: args.images]
    forms = {name: Segmenter.from_pretrained(device="cpu", batch_size=name) for name in ("auto", 1, 16)}
    results = {name: form(images) for name, form in forms.items()}
    seconds: dict = {name: [] for name in forms}
    for _ in range(args.repetitions):
        for name, form in forms.items():
            start = time.perf_counter()
            form(images)
            seconds[name].append((time.perf_counter() - start) / len(images))
    rows = []
    for name, form in forms.items():
        row = {"batch_size": name, "seconds_an_image": spread(seconds[name])}
        row["times_faster"] = spread([one / own for own, one in zip(seconds[name], seconds[1], strict=True)])
        row["results"] = same(results[name], results[1])
        if can_measure("cpu"):
            row["peak_mib"] = growth(lambda form=form: form(images)) / 2**20
        rows.append(row)
        print(row)
    sizes = sorted({result.size for result in results[1]})
    write_results(
        {"machine": machine(threads=args.threads), "images": len(images), "sizes": sizes, "rows": rows}, args.out
    )


if __name__ == "__main__":
    main()
