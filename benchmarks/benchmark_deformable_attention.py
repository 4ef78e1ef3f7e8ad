"""Deformable attention: our op and the form that transformers has, in turn in one run.

    python benchmarks/benchmark_deformable_attention.py --out benchmarks/results/deformable_attention_cpu.json

Shapes are those of the pixel decoder's encoder (8 heads of 32 channels, 3 levels, 4 points, a query per cell). Each
repetition runs the one and then the other, so that whatever else the machine does meets both; ratios are of pairs.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
import transformers
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn
from m2f.modeling_m2f.pixel_decoder import reference_points

SIZES = [(640, 640), (800, 1344), (1024, 1024)]
HEADS, HEAD_DIM, POINTS = 8, 32, 4


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="json file for the rows")
    return parser.parse_args()


def make_inputs(size: tuple[int, int], batch: int) -> tuple:
    shapes = [(size[0] // stride, size[1] // stride) for stride in (32, 16, 8)]
    cells = sum(height * width for height, width in shapes)
    tensors = (
        torch.randn(batch, cells, HEADS, HEAD_DIM),
        2 * torch.randn(batch, cells, HEADS, len(shapes), POINTS, 2),
        torch.randn(batch, cells, HEADS, len(shapes) * POINTS),
    )
    value, offsets, logits = (x.requires_grad_() for x in tensors)
    return value, shapes, reference_points(shapes, value.device), offsets, logits


def as_transformers(value, shapes, reference, offsets, logits):
    """What its attention layer does between the linear layers."""
    normalizer = torch.tensor([[width, height] for height, width in shapes], dtype=value.dtype)
    locations = reference[:, :, None, :, None, :] + offsets / normalizer[None, None, None, :, None, :]
    weights = logits.softmax(-1).unflatten(-1, (len(shapes), POINTS))
    return multi_scale_deformable_attention(value, shapes, locations, weights)


def seconds(function, inputs, backward: bool) -> float:
    start = time.perf_counter()
    if backward:
        out = function(*inputs)
        torch.autograd.grad(out, (inputs[0], inputs[3], inputs[4]), torch.ones_like(out))
    else:
        with torch.no_grad():
            function(*inputs)
    return time.perf_counter() - start


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def measure(size: tuple[int, int], batch: int, backward: bool, repetitions: int) -> dict:
    torch.manual_seed(0)
    inputs = make_inputs(size, batch)
    torch.testing.assert_close(ms_deform_attn(*inputs), as_transformers(*inputs), atol=1e-3, rtol=1e-3)
    ours, theirs = [], []
    for _ in range(repetitions):
        ours.append(seconds(ms_deform_attn, inputs, backward))
        theirs.append(seconds(as_transformers, inputs, backward))
    return {
        "size": size,
        "batch": batch,
        "pass": "forward+backward" if backward else "forward",
        "ours_seconds": spread(ours),
        "transformers_seconds": spread(theirs),
        "ratio": spread([b / a for a, b in zip(ours, theirs, strict=True)]),
    }


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main(args: argparse.Namespace):
    torch.set_num_threads(args.threads)
    machine = {
        "processor": processor(),
        "threads": args.threads,
        "dtype": "float32",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    rows = []
    for size in SIZES:
        for batch in args.batches:
            for backward in (False, True):
                row = measure(size, batch, backward, args.repetitions)
                rows.append(row)
                ratio = row["ratio"]
                print(
                    f"{size[0]}x{size[1]} batch {batch} {row['pass']:16s} "
                    f"{row['ours_seconds']['median'] * 1e3:7.1f} ms, "
                    f"transformers {row['transformers_seconds']['median'] * 1e3:8.1f} ms, ratio "
                    f"{ratio['min']:.1f} / {ratio['median']:.1f} / {ratio['max']:.1f}",
                    flush=True,
                )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(parse_args())
