"""What comes after the model, and before it: ours, ours without kernels, and transformers', in one run.

    python benchmarks/benchmark_post_processing.py --threads 2 --out benchmarks/results/post_processing_cpu.json

Each repetition runs one form after the other, so that whatever else the machine does meets all; ratios are of
neighbours. All queries survive the score threshold. Masks are `discs`, as a trained model gives them, or `noise`, of
which no bound rules anything out. transformers' form does less: it resizes to 384 x 384, and from there to the target.
Memory is the growth of the resident set at the worst moment of our form, results included. The file is written after
every row.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

from m2f.bench.measurement_report import machine, spread, write_results
from m2f.bench.peak_memory import can_measure, growth
from m2f.image_processing.image_processing_m2f import M2FImageProcessor

OURS, PLAIN, THEIRS = "ours", "ours, M2F_KERNELS=reference", "transformers"
# queries, padded size, valid size and target size
SIZES = [
    (100, (800, 1344), (800, 1333), (480, 800)),
    (100, (800, 1344), (800, 1333), (800, 1333)),
    (200, (1024, 2048), (1024, 2048), (1024, 2048)),
]
CLASSES = 150
MEGABYTE = 10**6


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sizes", type=int, nargs="+", default=range(len(SIZES)), help="indices of the sizes")
    parser.add_argument("--alone", action="store_true", help="without the other forms, which take most of the time")
    parser.add_argument("--out", type=Path, help="json file for the rows")
    return parser.parse_args()


def make_outputs(masks: str, queries: int, padded: tuple[int, int], valid: tuple[int, int]) -> SimpleNamespace:
    """Of one image; the classes have probabilities above 0.8."""
    generator = torch.Generator().manual_seed(0)
    height, width = padded[0] // 4, padded[1] // 4
    noise = torch.randn(queries, height, width, generator=generator)
    if masks == "noise":
        logits = 3 * noise
    else:
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres = torch.rand(queries, 2, 1, 1, generator=generator) * torch.tensor([height, width]).view(2, 1, 1)
        radii = 4 + 0.15 * height * torch.rand(queries, 1, 1, generator=generator)
        logits = (radii - torch.hypot(rows - centres[:, 0], columns - centres[:, 1])).clamp(-12, 12) + noise / 2
    classes = torch.randn(queries, CLASSES + 1, generator=generator)
    classes[torch.arange(queries), torch.randint(CLASSES, (queries,), generator=generator)] += 12
    return SimpleNamespace(
        class_queries_logits=classes[None], masks_queries_logits=logits[None], valid_sizes=torch.tensor([valid])
    )


def post_processing(outputs: SimpleNamespace, target: tuple[int, int]) -> dict[str, tuple[Callable, Callable]]:
    """Task -> our form and transformers'."""
    ours = M2FImageProcessor(thing_label_ids=list(range(100)))
    semantic, theirs, sizes = M2FImageProcessor(task="semantic"), Mask2FormerImageProcessorPil(), [target]
    binary = {"target_sizes": sizes, "return_binary_maps": True}
    return {
        "panoptic": (
            lambda: ours.post_process_panoptic_segmentation(outputs, target_sizes=sizes),
            lambda: theirs.post_process_panoptic_segmentation(
                outputs, 0.8, label_ids_to_fuse=set(range(100, CLASSES)), target_sizes=sizes
            ),
        ),
        "instance, binary masks": (
            lambda: ours.post_process_instance_segmentation(outputs, 0.0, **binary),
            lambda: theirs.post_process_instance_segmentation(outputs, 0.0, **binary),
        ),
        "instance, map": (
            lambda: ours.post_process_instance_segmentation(outputs, 0.0, target_sizes=sizes),
            lambda: theirs.post_process_instance_segmentation(outputs, 0.0, target_sizes=sizes),
        ),
        "semantic, masks resized": (
            lambda: ours.post_process_semantic_segmentation(outputs, sizes),
            lambda: theirs.post_process_semantic_segmentation(outputs, sizes),
        ),
        "semantic, scores resized": (
            lambda: semantic.post_process_semantic_segmentation(outputs, sizes),
            lambda: theirs.post_process_semantic_segmentation(outputs, sizes),
        ),
    }


def preparation(batch: int) -> tuple[Callable, Callable]:
    """Images of 480 x 800 to model inputs of 800 x 1344."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 480, 800, 3), dtype=np.uint8)
    images, size = [Image.fromarray(image) for image in pixels], {"shortest_edge": 800, "longest_edge": 1333}
    ours, theirs = M2FImageProcessor(size=size), Mask2FormerImageProcessorPil(size=size)
    return lambda: ours(images, return_tensors="pt"), lambda: theirs(images, return_tensors="pt")


def seconds(form: Callable, kernels: str) -> float:
    os.environ["M2F_KERNELS"] = kernels
    start = time.perf_counter()
    form()
    return time.perf_counter() - start


def measure(ours: Callable, theirs: Callable, args: argparse.Namespace) -> dict:
    forms = {OURS: (ours, "compiled")}
    if not args.alone:
        forms |= {PLAIN: (ours, "reference"), THEIRS: (theirs, "reference")}
    for form in forms.values():
        seconds(*form)
    times = {name: [] for name in forms}
    for _ in range(args.repetitions):
        for name, form in forms.items():
            times[name].append(seconds(*form))
    found = {name: {"seconds": spread(values)} for name, values in times.items()}
    for name in list(forms)[1:]:
        found[name]["ratio"] = spread([b / a for a, b in zip(times[OURS], times[name], strict=True)])
    if can_measure("cpu"):
        found[OURS]["peak_bytes"] = growth(lambda: seconds(*forms[OURS]))
    return found


def rows(args: argparse.Namespace):
    """Name -> (description, our form, transformers' form)."""
    for queries, padded, valid, target in (SIZES[index] for index in args.sizes):
        for masks in ("discs", "noise"):
            outputs = make_outputs(masks, queries, padded, valid)
            about = {"queries": queries, "masks": masks, "padded": padded, "valid": valid, "target": target}
            for task, forms in post_processing(outputs, target).items():
                yield {"task": task, **about}, *forms
    for batch in (1, 4):
        yield {"task": "preparation", "batch": batch, "image": (480, 800), "padded": (800, 1344)}, *preparation(batch)


def print_row(row: dict):
    print({key: value for key, value in row.items() if key != "forms"})
    for name, found in row["forms"].items():
        times = " / ".join(f"{1e3 * found['seconds'][key]:8.1f}" for key in ("min", "median", "max"))
        ratio = f"x {found['ratio']['median']:6.1f}" if "ratio" in found else ""
        peak = f"{found['peak_bytes'] / MEGABYTE:6.0f} MB" if "peak_bytes" in found else ""
        print(f"  {name:28s} {times} ms  {ratio}{peak}", flush=True)


def main(args: argparse.Namespace):
    torch.set_num_threads(args.threads)
    about = machine(threads=args.threads, load=os.getloadavg()[0])
    results = {"machine": about, "classes": CLASSES, "rows": []}
    for row, ours, theirs in rows(args):
        results["rows"].append({**row, "forms": measure(ours, theirs, args)})
        print_row(results["rows"][-1])
        write_results(results, args.out)


if __name__ == "__main__":
    main(parse_args())
