"""Times our model beside transformers' Mask2Former on this machine, which OpenVINO and ONNX Runtime run too where they
are installed: same weights, same images, in turn; whole and in parts; with peak memory and the share of what the
machine's matrix products allow. In float32 on a CPU their outputs are compared before."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import torch

from m2f.bench.compared_models import (
    BACKBONES,
    COMPILED,
    FORMS,
    OURS_ALONE,
    THEIRS,
    Form,
    check_form,
    forms_for,
    make_form,
)
from m2f.bench.exported_peers import PACKAGES, ExportedModel, library_versions
from m2f.bench.inference_stages import MODEL_STAGES, STAGES, stage_work
from m2f.bench.matrix_rate import OPERATIONS, matrix_operations, matrix_product
from m2f.bench.measurement_report import machine, spread, write_results
from m2f.bench.output_difference import output_differences
from m2f.bench.paired_timing import paired_seconds, ratios
from m2f.bench.peak_memory import can_measure, growth
from m2f.bench.speed_plot import draw_speed
from m2f.commands.messages import print_lines
from m2f.commands.output_check import check_folder
from m2f.commands.shared_arguments import add_shared_arguments, count
from m2f.inference.model_loading import DTYPES, find_device

_PRODUCT = "matrix product"
_WHOLE = ("model", "end to end")  # stages of forms that are one piece


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("--backbone", choices=BACKBONES, nargs="+", default=["swin-tiny"], help="(%(default)s)")
    size = "sizes as the network sees them (640x640 800x1344 1024x1024)"
    parser.add_argument(
        "--size", type=_size, nargs="+", default=[(640, 640), (800, 1344), (1024, 1024)], metavar="HxW", help=size
    )
    parser.add_argument("--stage", choices=STAGES, nargs="+", default=list(STAGES), help="what is timed (all)")
    forms = "what is compared (all that can run here but the compiled ones)"
    parser.add_argument("--form", choices=FORMS, nargs="+", help=forms)
    repetitions = "how often each is timed (%(default)s)"
    parser.add_argument("--repetitions", type=count, default=5, metavar="N", help=repetitions)
    parser.add_argument("--threads", type=count, default=torch.get_num_threads(), metavar="N", help="(%(default)s)")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--peak-of", choices=FORMS, help=argparse.SUPPRESS)
    add_shared_arguments(
        parser,
        config={},
        device={},
        cpu={},
        dtype={"choices": DTYPES, "nargs": "+", "default": ["float32", "bfloat16"], "help": "(float32 bfloat16)"},
        batch_size={"type": count, "nargs": "+", "default": [1], "aliases": ("--batch",)},
        output={"metavar": "FILE", "help": "write a json file, and a plot beside it"},
        dry_run={},
    )


def run(args: argparse.Namespace) -> int:
    device = find_device(args.device)
    if device.index is not None:
        torch.accelerator.set_device_index(device.index)
    args.device = device.type  # what is compared takes the current one of its kind
    if args.output is not None:
        check_folder(args.output.parent)
    for backbone, dtype in product(args.backbone, args.dtype):
        for name in _form_names(args, backbone, dtype):
            check_form(name, backbone, DTYPES[dtype], args.device)
    if args.dry_run:
        print_lines(dry_run_lines(args))
        return 0
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(_own_peak(args))
        return 0
    results: dict[str, Any] = {"machine": _machine(args), "rows": []}
    print_lines([", ".join(f"{name} {value}" for name, value in results["machine"].items())])
    for backbone in args.backbone:
        for dtype in args.dtype:
            _measure(args, backbone, dtype, results)
    if args.output is not None:
        draw_speed(results["rows"], args.output.with_suffix(".png"))
    return 0


def dry_run_lines(args: argparse.Namespace) -> list[str]:
    """What would be done."""
    lines = [
        f"would time {', '.join(_form_names(args, backbone, dtype))}: {backbone} {height}x{width} batch {batch} "
        f"{dtype} on {args.device}: {', '.join(args.stage)}"
        for backbone in args.backbone
        for dtype in args.dtype
        for height, width in args.size
        for batch in args.batch_size
    ]
    if args.output is not None:
        lines.append(f"numbers and a plot would be written to {args.output} and {args.output.with_suffix('.png')}")
    return lines


def _form_names(args: argparse.Namespace, backbone: str, dtype: str) -> list[str]:
    return args.form or forms_for(backbone, DTYPES[dtype], args.device)


def _machine(args: argparse.Namespace) -> dict[str, Any]:
    pairs = product(args.backbone, args.dtype)
    runners = {FORMS[name].runner for pair in pairs for name in _form_names(args, *pair)}
    libraries = library_versions(library for library in PACKAGES if library in runners)
    return machine(args.device, threads=args.threads) | libraries


def _measure(args: argparse.Namespace, backbone: str, dtype: str, results: dict):
    """Adds a row for each size, batch and stage; the file is written after each."""
    forms = {
        name: make_form(name, backbone, DTYPES[dtype], args.device) for name in _form_names(args, backbone, dtype)
    }
    multiply = matrix_product(DTYPES[dtype], args.device)
    # A GPU may multiply float32 in fewer bits.
    compares = (dtype, args.device) == ("float32", "cpu") and not set(_WHOLE).isdisjoint(args.stage)
    compares = compares and backbone not in OURS_ALONE
    reference = forms.get(THEIRS) or make_form(THEIRS, backbone, torch.float32, "cpu") if compares else None
    for size in args.size:
        for batch in args.batch_size:
            differences = _differences(forms, reference, (batch, 3, *size)) if reference else {}
            for stage in args.stage:
                row = {"backbone": backbone, "dtype": dtype, "size": list(size), "batch": batch, "stage": stage}
                row |= _row(args, forms, row, multiply)
                if stage in _WHOLE:
                    for name, difference in differences.items():
                        row["forms"][name]["difference"] = difference
                results["rows"].append(row)
                _print_row(row)
                write_results(results, args.output)


def _differences(forms: dict[str, Form], reference: Form, shape: tuple[int, ...]) -> dict:
    """Of every form but the reference's own."""
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    others = {name: form for name, form in forms.items() if form is not reference}
    return output_differences(others, reference, pixels)


def _row(args: argparse.Namespace, forms: dict, row: dict, multiply: Callable[[], object]) -> dict:
    size, batch, stage = tuple(row["size"]), row["batch"], row["stage"]
    works = {
        name: stage_work(stage, form, FORMS[name].is_ours, size, batch, args.device)
        for name, form in forms.items()
        if not FORMS[name].is_one_piece or stage in _WHOLE
    }
    # In turn with the others, because a machine's rate changes with what else it does.
    seconds = paired_seconds(works | {_PRODUCT: multiply}, args.repetitions, args.device)
    rate = OPERATIONS / spread(seconds.pop(_PRODUCT))["median"]
    found: dict[str, dict[str, Any]] = {name: {"seconds": spread(values)} for name, values in seconds.items()}
    if THEIRS in seconds:
        for name, ratio in ratios(seconds, THEIRS).items():
            found[name]["times_faster"] = ratio
    if stage in MODEL_STAGES[1:] and "ours" in works:
        operations = matrix_operations(works["ours"])
        found["ours"]["operations"] = operations
        for name in found:
            found[name]["share_of_roofline"] = operations / rate / found[name]["seconds"]["median"]
    if stage == "model" and not args.no_memory and can_measure(args.device):
        for name in works:
            if FORMS[name].runner != COMPILED:
                found[name]["peak_bytes"] = _peak(args, name, row)
    return {"matrix_rate": rate, "forms": found}


def _peak(args: argparse.Namespace, form: str, row: dict) -> int:
    """Bytes above model and input, in a process of its own: an allocator keeps what others have freed."""
    size = "x".join(map(str, row["size"]))
    command = [sys.executable, "-m", "m2f", "bench", "--peak-of", form, "--backbone", row["backbone"], "--size", size]
    command += ["--batch-size", str(row["batch"]), "--dtype", row["dtype"], "--device", args.device]
    command += ["--threads", str(args.threads)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def _own_peak(args: argparse.Namespace) -> int:
    form = make_form(args.peak_of, args.backbone[0], DTYPES[args.dtype[0]], args.device)
    pixels = torch.randn(args.batch_size[0], 3, *args.size[0], device=args.device)
    if isinstance(form.model, ExportedModel):
        form.model.load(pixels)  # a graph is for its shape
    else:
        form(torch.randn(1, 3, 64, 64, device=args.device))  # kernels and threads are there before
    return growth(lambda: form(pixels), args.device)


def _print_row(row: dict):
    height, width = row["size"]
    head = f"{row['backbone']} {height}x{width} batch {row['batch']} {row['dtype']}: {row['stage']}"
    print_lines([f"{head} (matrix products: {row['matrix_rate'] / 1e9:.0f} GFLOP/s)"])
    for name, found in row["forms"].items():
        times = " / ".join(f"{value:.3f}" for value in found["seconds"].values())
        line = f"  {name:24s} {times} s"
        if "times_faster" in found:
            line += "  faster " + " / ".join(f"{value:.2f}" for value in found["times_faster"].values())
        if "share_of_roofline" in found:
            line += f"  roofline {found['share_of_roofline']:.0%}"
        if "peak_bytes" in found:
            line += f"  peak {found['peak_bytes'] / 1e6:.0f} MB"
        if "difference" in found:
            line += f"  logits differ by {max(found['difference'].values()):.0e}"
        print(line, flush=True)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write height x width, such as 800x1344")
    return int(height), int(width)
