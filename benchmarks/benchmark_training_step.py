"""A training step of our model and of transformers' Mask2Former: same weights, same targets, in one run.

    python benchmarks/benchmark_training_step.py --out benchmarks/results/training_step_cpu.json
    python benchmarks/benchmark_training_step.py --backbones --cases 512x2x20 \
        --out benchmarks/results/backbones_cpu.json
    python benchmarks/benchmark_training_step.py --device cuda --autocast bfloat16 --cases 1024x8x20 \
        --out benchmarks/results/training_step_cuda.json

A case is edge x batch x masks of an image. A step is forward, backward and AdamW. Each repetition runs one form after
the other, so that whatever else the machine does meets all; ratios are of neighbours. Memory is the peak of a step
above model, optimizer state and batch; on a CPU it is measured in a process of its own, twice: with the allocator as
it is, and with freed memory given back at once (`held by tensors`), because glibc keeps freed blocks of up to 32 MiB,
and how many depends on the order of allocations. With `--backbones` it is our model with Vision Transformers, trained
whole, frozen or by LoRA adapters, beside ours with Swin-T; their operations are counted, so that seconds can be
compared for as many. The file is written after every row.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from training_step_forms import BACKBONE_FORMS, COMPILED, FORMS, THEIRS, Step, make_batch

from m2f.bench.matrix_rate import matrix_operations
from m2f.bench.measurement_report import machine, spread, write_results
from m2f.bench.peak_memory import can_measure, growth

FORM_SCRIPT = Path(__file__).with_name("training_step_forms.py")
GIVE_BACK = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=262144"}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--autocast", choices=("bfloat16", "float16"), help="default: float32")
    parser.add_argument(
        "--cases", nargs="+", default=["512x2x20", "1024x1x20", "512x2x300"], metavar="EDGExBATCHxMASKS"
    )
    backbones = f"other backbones of ours beside Swin-T (all: {'; '.join(BACKBONE_FORMS[1:])})"
    parser.add_argument("--backbones", nargs="*", choices=BACKBONE_FORMS[1:], metavar="FORM", help=backbones)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=("seconds", "memory"), help="leave the other out")
    parser.add_argument("--compiled", action="store_true", help="ours through torch.compile too, its time alone")
    parser.add_argument("--out", type=Path, help="json file for the rows")
    return parser.parse_args()


def forms_of(args: argparse.Namespace) -> list[str]:
    if args.backbones is not None:
        return [BACKBONE_FORMS[0], *(args.backbones or BACKBONE_FORMS[1:])]
    return [*FORMS, COMPILED] if args.compiled else list(FORMS)


def times(args: argparse.Namespace, case: tuple[int, int, int]) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of each repetition, and with other backbones the floating point operations of a step."""
    forms = forms_of(args)
    steps = {form: Step(form, args.device, args.autocast) for form in forms}
    batches = {form: make_batch(form, *case, args.device) for form in forms}
    operations = {}
    for form in forms:
        if args.backbones is not None:
            operations[form] = matrix_operations(lambda form=form: steps[form](batches[form]))
        else:
            steps[form](batches[form])  # compiles
    found = {form: [] for form in forms}
    for _ in range(args.repetitions):
        for form in forms:
            start = time.perf_counter()
            steps[form](batches[form])  # gives the loss as a number, so a GPU is waited for
            found[form].append(time.perf_counter() - start)
    return found, operations


def peaks(form: str, args: argparse.Namespace, case: tuple[int, int, int]) -> dict[str, int]:
    if args.device == "cuda":
        step, batch = Step(form, "cuda", args.autocast), make_batch(form, *case, "cuda")
        step(batch)
        return {"held by tensors": growth(lambda: step(batch), "cuda")}
    command = [sys.executable, FORM_SCRIPT, form, *map(str, case), str(args.threads)]
    found = {}
    for name, environment in (("resident", {}), ("held by tensors", GIVE_BACK)):
        run = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
        found[name] = int(run.stdout.split()[-1])
    return found


def measure(args: argparse.Namespace, case: tuple[int, int, int]) -> dict:
    """A row of the results."""
    forms = {form: {} for form in forms_of(args)}
    reference = THEIRS if args.backbones is None else BACKBONE_FORMS[0]
    if args.only != "memory":
        seconds, operations = times(args, case)
        for form in forms:
            ratios = [theirs / own for own, theirs in zip(seconds[form], seconds[reference], strict=True)]
            forms[form] |= {"seconds": spread(seconds[form]), "times_faster": spread(ratios)}
        for form, count in operations.items():
            share = count / operations[reference]
            per_operation = {kind: 1 / (value * share) for kind, value in forms[form]["times_faster"].items()}
            forms[form] |= {"operations": count, "seconds_per_operation": spread(list(per_operation.values()))}
    if args.only != "seconds" and can_measure(args.device):
        found = {form: peaks(form, args, case) for form in forms if form != COMPILED}
        for form in found:
            shares = {kind: found[form][kind] / found[reference][kind] for kind in found[form]}
            forms[form] |= {"peak_bytes": found[form], "memory_share": shares}
    edge, batch, masks = case
    return {"edge": edge, "batch": batch, "masks": masks, "type": args.autocast or "float32", "forms": forms}


def print_row(row: dict):
    print(f"{row['edge']}x{row['edge']} batch {row['batch']}, {row['masks']} masks an image, {row['type']}")
    for form, found in row["forms"].items():
        shares = found.get("memory_share", {})
        memory = " ".join(
            f"{kind} {value / 1e9:5.2f} GB ({shares[kind]:.3f})" for kind, value in found.get("peak_bytes", {}).items()
        )
        ratios = " / ".join(f"{value:.2f}" for value in found.get("times_faster", {}).values())
        seconds = f"{found['seconds']['median']:7.2f} s" if "seconds" in found else ""
        if "operations" in found:
            relative = found["seconds_per_operation"]["median"]
            seconds += f" {found['operations'] / 1e12:5.2f} TFLOP, {relative:.2f} times the seconds for as many"
        print(f"  {form:20s} {seconds}  {ratios:20s} {memory}", flush=True)


def main(args: argparse.Namespace):
    torch.set_num_threads(args.threads)
    results = {"machine": machine(args.device, threads=args.threads), "rows": []}
    for text in args.cases:
        case = tuple(map(int, text.split("x")))
        results["rows"].append(measure(args, case))
        print_row(results["rows"][-1])
        write_results(results, args.out)


if __name__ == "__main__":
    main(parse_args())
