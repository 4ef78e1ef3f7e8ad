"""`m2f predict` over a folder: images a second by threads and processes, and how far reading, computing and writing go
on at the same time.

    python benchmarks/benchmark_predict.py --out benchmarks/results/predict_cpu.json

The images are resized ones of examples/nuclei, JPEG and PNG in turn, of 200 to 1600 pixels, most of them small. The
bundled checkpoint takes them with its own settings, in tiles. A Swin-T with random weights and a panoptic task takes
the first few, resized to at most `SWIN_EDGE` pixels; its segments mean nothing, but with a threshold of 0 there are
some to be merged, drawn and written.

Processes with their models loaded take turns at parts of the images, so that each part gives a ratio. Two processes
share a part as `accelerate launch` has them do it, every second image each; the time is until the last has ended and
the summary is written. The steps' shares are of the time of the images without the summary: in which at least one
thread was at it, and in which one was and the model did not compute. Waiting for a processor counts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from predict_process import STEPS

from m2f.bench.compared_models import make_form
from m2f.bench.measurement_report import machine, spread, write_results
from m2f.image_processing.image_processing_m2f import M2FImageProcessor

ROOT = Path(__file__).resolve().parent.parent
SMALLEST, LARGEST = 200, 1600  # pixels of the longest edge
SWIN_EDGE = 640
Spans = Sequence[Sequence[float]]  # of start and end


class Form(NamedTuple):
    """So many processes of so many threads each."""

    processes: int
    threads: int

    def __str__(self) -> str:
        return f"{self.processes} x {self.threads}"


ONE, TWO_THREADS, TWO_PROCESSES = Form(1, 1), Form(1, 2), Form(2, 1)


class Group:
    """The processes of a form, each with its model."""

    def __init__(self, form: Form, arguments: Sequence[str]):
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(form.threads)}
        command = [sys.executable, str(ROOT / "benchmarks" / "predict_process.py"), *arguments]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.processes = [subprocess.Popen(command, env=variables, text=True, **pipes) for _ in range(form.processes)]

    def segment(self, images: Sequence[str], output: Path) -> dict[str, Any]:
        """Seconds of it all, each process's seconds and spans, and the number of segments."""
        start = time.monotonic()
        shares = [images[number :: len(self.processes)] for number in range(len(self.processes))]
        for process, share in zip(self.processes, shares, strict=True):
            _send(process, {"images": share, "output": str(output), "step": "predict"})
        spans = [_answer(process)["spans"] for process in self.processes]
        predicted = time.monotonic()
        _send(self.processes[0], {"images": images, "output": str(output), "step": "summary"})
        segments = _answer(self.processes[0])["segments"]
        ended = time.monotonic()
        return {"seconds": ended - start, "work": (start, predicted), "spans": spans, "segments": segments}

    def end(self):
        for process in self.processes:
            process.communicate()


def _send(process: subprocess.Popen, task: dict[str, Any]):
    assert process.stdin is not None
    process.stdin.write(json.dumps(task) + "\n")
    process.stdin.flush()


def _answer(process: subprocess.Popen) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a process ended: {process.args}")
    return json.loads(line)


def make_images(folder: Path, count: int) -> list[str]:
    """Pictures of examples/nuclei at other sizes, in the order in which they are segmented."""
    sources = sorted((ROOT / "examples" / "nuclei").rglob("*.png"))
    draw = np.random.default_rng(0)
    paths = []
    for number, rank in enumerate(draw.permutation(count)):
        # To the eighth power: half of the images are below 205 pixels, a tenth above 490, so that the run is short.
        width = round(SMALLEST * (LARGEST / SMALLEST) ** (((rank + 0.5) / count) ** 8))
        height = max(SMALLEST, round(width * draw.uniform(0.6, 1)))
        paths.append(folder / f"{number:03}.{('jpg', 'png')[number % 2]}")
        Image.open(sources[number % len(sources)]).convert("RGB").resize((width, height)).save(paths[-1])
    return [str(path) for path in paths]


def make_swin(folder: Path) -> list[str]:
    """A checkpoint of a Swin-T with random weights; the arguments to predict with it."""
    model: Any = make_form("ours", "swin-tiny", torch.float32, "cpu").model
    model.save_pretrained(folder)
    size = {"shortest_edge": SWIN_EDGE, "longest_edge": SWIN_EDGE}
    M2FImageProcessor(task="panoptic", size=size).save_pretrained(folder)
    return ["--checkpoint", str(folder), "--threshold", "0"]


def union(spans: Spans) -> list[list[float]]:
    """The time that spans cover, as spans that do not overlap, in order."""
    found: list[list[float]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1][1] = max(found[-1][1], end)
        else:
            found.append([start, end])
    return found


def seconds_of(spans: Spans) -> float:
    return sum(end - start for start, end in union(spans))


def step_shares(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each step, and of waiting in which no step runs: shares of the time of the images, means of the processes."""
    total = sum(run["work"][1] - run["work"][0] for run in runs) * len(runs[0]["spans"])
    noted = [spans for run in runs for spans in run["spans"]]  # of a process and a part each

    def covered(*steps: str) -> float:
        return sum(seconds_of([span for step in steps for span in spans.get(step, [])]) for spans in noted) / total

    shares = {
        step: {"share": covered(step), "share_without_model": covered(step, "model") - covered("model")}
        for step in STEPS
        if any(step in spans for spans in noted)
    }
    return {**shares, "no step": {"share": 1 - covered(*STEPS)}}


def measure(groups: dict[Form, Group], images: Sequence[str], parts: int, folder: Path) -> list[dict[str, Any]]:
    """Rows of the forms, which take turns at the parts, in changing order."""
    size = -(-len(images) // parts)
    runs: dict[Form, list[dict[str, Any]]] = {form: [] for form in groups}
    for part in range(parts + 1):
        # First a few that do not count, for each process.
        chosen = images[(part - 1) * size : part * size] if part else images[:4]
        for form in list(groups)[:: -1 if part % 2 else 1]:
            with tempfile.TemporaryDirectory(dir=folder) as output:
                found = groups[form].segment(chosen, Path(output))
            if part:
                runs[form].append({**found, "images": len(chosen)})
                print(f"  {form}: {len(chosen)} images, {found['seconds']:.1f} s", flush=True)
    return [_row(form, runs) for form in groups]


def _row(form: Form, runs: dict[Form, list[dict[str, Any]]]) -> dict[str, Any]:
    own = runs[form]
    return {
        "processes": form.processes,
        "threads_each": form.threads,
        "images_a_second": sum(run["images"] for run in own) / sum(run["seconds"] for run in own),
        "times_faster_than": {
            str(other): spread([b["seconds"] / a["seconds"] for a, b in zip(own, runs[other], strict=True)])
            for other in (ONE, TWO_THREADS)
            if other != form
        },
        "share_of_summary": 1 - sum(run["work"][1] - run["work"][0] for run in own) / sum(r["seconds"] for r in own),
        "steps": step_shares(own),
        "segments": sum(run["segments"] for run in own),
    }


def forms_for(cores: int) -> list[Form]:
    """One process of 1, 2, 4, ... threads, and two of one thread."""
    more = [Form(1, 2**n) for n in range(2, 16) if 2**n <= cores]
    return [ONE, TWO_THREADS, *more, TWO_PROCESSES]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--parts", type=int, default=5, help="that the images are measured in (%(default)s)")
    parser.add_argument("--swin-images", type=int, default=15)
    parser.add_argument("--swin-parts", type=int, default=3)
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="threads at most (2 at least)")
    parser.add_argument("--out", type=Path, help="json file for the rows")
    args = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = make_images(folder, args.images)
        plans = {
            "bundled checkpoint, instance, tiles": ([], images, args.parts),
            f"Swin-T, random weights, panoptic, longest edge {SWIN_EDGE}": (
                make_swin(folder / "swin"),
                images[: args.swin_images],
                args.swin_parts,
            ),
        }
        for case, (arguments, chosen, parts) in plans.items():
            print(case, flush=True)
            groups = {form: Group(form, arguments) for form in forms_for(args.cores)}
            rows = measure(groups, chosen, parts, folder)
            for group in groups.values():
                group.end()
            cases.append({"case": case, "images": len(chosen), "parts": parts, "rows": rows})
            write_results({"machine": machine(cores=os.cpu_count()), "cases": cases}, args.out)
            for row in rows:
                print(row)


if __name__ == "__main__":
    main()
