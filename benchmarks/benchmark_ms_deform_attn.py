"""Deformable attention: our op, the form that transformers has, and other libraries where installed, in one run.

    python benchmarks/benchmark_ms_deform_attn.py --out benchmarks/results/ms_deform_attn_cpu.json
    python benchmarks/benchmark_ms_deform_attn.py --device cuda \\
        --out benchmarks/results/ms_deform_attn_cuda.json

Shapes are those of the pixel decoder's encoder (8 heads of 32 channels, 3 levels, 4 points, a query per cell). Each
repetition runs one form after the other, so that whatever else the machine does meets all; ratios are of neighbours.
Memory is the peak above what the inputs hold: what PyTorch's allocator hands out on a GPU, the resident set of a
process of its own on a CPU. `error` is the output's largest difference from plain PyTorch in float64 on the same
numbers, relative to the largest number. The file is written after every row.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from ms_deform_attn_forms import OURS, installed_forms, make_inputs, run, versions
from ms_deform_attn_memory import measure_memory

from m2f.bench.measurement_report import machine, spread, write_results
from m2f.bench.peak_memory import growth
from m2f.modeling_m2f.kernels.kernel_report import kernel_report
from m2f.modeling_m2f.kernels.ms_deform_attn_reference import ms_deform_attn_reference

SIZES = [(640, 640), (800, 1344), (1024, 1024)]
PASSES = ("forward", "forward+backward")
CALLS_AT_ONCE = {"cpu": 1, "cuda": 10}  # between two looks at the clock: a GPU is given work while it works
# What other libraries say to a type, size or machine that they do not cover, a full memory included.
REFUSALS = (RuntimeError, ValueError, NotImplementedError, ImportError)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtypes", nargs="+", help="default: float32; on a GPU float16 and bfloat16 too")
    parser.add_argument("--sizes", nargs="+", type=_size, default=SIZES, metavar="HEIGHTxWIDTH")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--no-memory", action="store_true", help="leave memory out (on a CPU it takes a process a row)"
    )
    parser.add_argument("--out", type=Path, help="json file for the rows")
    args = parser.parse_args()
    args.dtypes = args.dtypes or (["float32"] if args.device == "cpu" else ["float32", "float16", "bfloat16"])
    return args


def _size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def seconds(form: Callable, inputs: tuple, backward: bool) -> float:
    device = inputs[0].device.type
    _wait_for(device)
    start = time.perf_counter()
    for _ in range(CALLS_AT_ONCE[device]):
        run(form, inputs, backward)
    _wait_for(device)
    return (time.perf_counter() - start) / CALLS_AT_ONCE[device]


def _wait_for(device: str):
    if device == "cuda":
        torch.cuda.synchronize()


def try_forms(forms: dict[str, Callable], inputs: tuple, backward: bool) -> tuple[dict, dict]:
    """The first run of each: (name -> error of the output, name -> what it said where it does not run)."""
    value, shapes, *others = (x.detach() if isinstance(x, torch.Tensor) else x for x in inputs)
    exact = ms_deform_attn_reference(value.double(), shapes, *(x.double() for x in others))
    errors, refusals = {}, {}
    for name, form in forms.items():
        try:
            out = run(form, inputs, False)
            if backward:
                run(form, inputs, True)
            errors[name] = ((out.double() - exact).abs().max() / exact.abs().max()).item()
        except REFUSALS as refusal:
            if name == OURS:
                raise
            refusals[name] = f"{type(refusal).__name__}: {refusal}"
    return errors, refusals


def memory_of(name: str, form: Callable, inputs: tuple, size: tuple, backward: bool, threads: int) -> int | None:
    value = inputs[0]
    if value.device.type == "cuda":
        return growth(lambda: run(form, inputs, backward), "cuda")
    found = measure_memory(name, size, value.shape[0], str(value.dtype).removeprefix("torch."), threads)
    return found and found[PASSES[backward]]


def measure(args: argparse.Namespace, size: tuple[int, int], batch: int, dtype: str, backward: bool) -> dict:
    """A row of the results."""
    inputs = make_inputs(size, batch, getattr(torch, dtype), args.device)
    errors, refusals = try_forms(installed_forms(), inputs, backward)
    forms = {name: form for name, form in installed_forms().items() if name in errors}
    times = {name: [] for name in forms}
    for _ in range(args.repetitions):
        for name, form in forms.items():
            times[name].append(seconds(form, inputs, backward))
    found = {name: {"seconds": spread(times[name]), "error": errors[name]} for name in forms}
    for name, form in forms.items():
        if name != OURS:
            found[name]["ratio"] = spread([b / a for a, b in zip(times[OURS], times[name], strict=True)])
        if not args.no_memory:
            found[name]["peak_bytes"] = memory_of(name, form, inputs, size, backward, args.threads)
    return {
        "size": size,
        "batch": batch,
        "dtype": dtype,
        "pass": PASSES[backward],
        "forms": found,
        "refused": refusals,
    }


def print_row(row: dict):
    print(f"{row['size'][0]}x{row['size'][1]} batch {row['batch']} {row['dtype']} {row['pass']}", flush=True)
    for name, found in row["forms"].items():
        ratio = found.get("ratio")
        ratios = f"{ratio['min']:6.2f} / {ratio['median']:6.2f} / {ratio['max']:6.2f}" if ratio else " " * 24
        peak = f"{found['peak_bytes'] / 2**20:8.1f} MiB" if found.get("peak_bytes") is not None else ""
        print(
            f"  {name:22s} {found['seconds']['median'] * 1e3:9.3f} ms  x {ratios}  {peak}  error {found['error']:.1e}",
            flush=True,
        )
    for name, words in row["refused"].items():
        print(f"  {name:22s} {words.splitlines()[0][:90]}", flush=True)


def main(args: argparse.Namespace):
    torch.set_num_threads(args.threads)
    ours = {name: found for name, found in kernel_report() if name.startswith(args.device)}
    about = machine(args.device, threads=args.threads, **versions(installed_forms()), ours=ours)
    results = {"machine": about, "rows": []}
    for size in args.sizes:
        for batch in args.batches:
            for dtype in args.dtypes:
                for backward in (False, True):
                    results["rows"].append(measure(args, size, batch, dtype, backward))
                    print_row(results["rows"][-1])
                    write_results(results, args.out)


if __name__ == "__main__":
    main(parse_args())
