"""Memory of a process after each call: images of `m2f predict`, calls of `Segmenter`, training steps with a loader.

    python benchmarks/benchmark_memory_growth.py --out benchmarks/results/memory_growth_cpu.json

Resident memory is read after each call. The slope is that of the least squares line through the calls after the first
quarter, in which caches fill. A leak of 0.1 MB a call would show; what a call needs and gives back does not. A small
model with random weights and images of 64 pixels, see `drawn_data.py`.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from drawn_data import EDGE, draw_data, write_config
from PIL import Image

from m2f.bench.measurement_report import machine, write_results
from m2f.cli import main as m2f_main
from m2f.configuration.configuration_m2f import M2FConfig
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.inference.prediction_folder import PredictionFolder
from m2f.inference.segmenter import Segmenter
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.optimization_step import OptimizationStep

LIMIT_MB = 0.1  # a call
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_MB


def slope(values: Sequence[float]) -> float:
    """Of the least squares line through all but the first quarter, per value."""
    later = values[len(values) // 4 :]
    return float(np.polyfit(np.arange(len(later)), later, 1)[0])


def row(case: str, values: Sequence[float]) -> dict[str, object]:
    found = {"case": case, "calls": len(values), "mb_a_call": round(slope(values), 5)}
    return {
        **found,
        "first_mb": round(values[0], 1),
        "last_mb": round(values[-1], 1),
        "most_mb": round(max(values), 1),
    }


def noted_after(owner: type, method: str, values: list[float]):
    """Have every call of a method add the memory after it."""
    plain = getattr(owner, method)

    def watched(*args, **kwargs):
        result = plain(*args, **kwargs)
        values.append(resident_mb())
        return result

    setattr(owner, method, watched)


def save_model(folder: Path) -> Path:
    fields = json.loads(write_config(folder).read_text())
    torch.manual_seed(0)
    M2FForUniversalSegmentation(M2FConfig(**fields)).save_pretrained(folder / "model")
    size = {"height": EDGE, "width": EDGE}
    M2FImageProcessor(task="instance", size=size).save_pretrained(folder / "model")
    return folder / "model"


def predict(folder: Path, model: Path, count: int) -> list[float]:
    values: list[float] = []
    images = folder / "many"
    images.mkdir()
    drawn = sorted((folder / "data" / "images" / "train").iterdir())
    for number in range(count):
        Image.open(drawn[number % len(drawn)]).save(images / f"{number:04}.png")
    noted_after(PredictionFolder, "write", values)
    run(["predict", images, "--checkpoint", model, "--output", folder / "out", "--threshold", 0, "--cpu"])
    return values


def segment(folder: Path, model: Path, count: int) -> Iterator[float]:
    segmenter = Segmenter.from_pretrained(str(model), device="cpu", threshold=0)
    drawn = sorted((folder / "data" / "images" / "train").iterdir())
    for number in range(count):
        result = segmenter(str(drawn[number % len(drawn)]))
        assert result.segments
        yield resident_mb()


def train(folder: Path, model: Path, count: int) -> list[float]:
    values: list[float] = []
    noted_after(OptimizationStep, "__call__", values)
    words = ["--data", folder / "data", "--format", "instance-maps", "--model", model, "--reset-classifier"]
    numbers = ["--max-steps", count, "--batch-size", 2, "--crop-size", EDGE, "--workers", 1, "--log-every", 10]
    run(["train", *words, *numbers, "--validation-split", "none", "--output", folder / "trained", "--cpu"])
    return values


def run(words: list):
    code = m2f_main([str(word) for word in words])
    if code:
        raise RuntimeError(f"m2f {words[0]} ended with {code}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300, help="of m2f predict (%(default)s)")
    parser.add_argument("--calls", type=int, default=500, help="of Segmenter (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="of training (%(default)s)")
    parser.add_argument("--out", type=Path, help="json file for the rows")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_data(folder / "data", train=12, val=2)
        model = save_model(folder)
        about = machine(cores=os.cpu_count(), threads=torch.get_num_threads())
        cases = {
            "m2f predict, images": lambda: predict(folder, model, args.images),
            "Segmenter, calls": lambda: list(segment(folder, model, args.calls)),
            "m2f train, steps": lambda: train(folder, model, args.steps),
        }
        rows = []
        for case, measured in cases.items():
            rows.append(row(case, measured()))
            print(rows[-1], flush=True)
            write_results({"machine": about, "limit_mb_a_call": LIMIT_MB, "rows": rows}, args.out)
    return 1 if any(found["mb_a_call"] > LIMIT_MB for found in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
