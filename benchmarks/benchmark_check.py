"""How long `m2f check` takes, and how that grows with the objects of an image, and with the annotations of a json.

    python benchmarks/benchmark_check.py --out benchmarks/results/check_cpu.json

The data are made here: an image of 640x480 with 10, 100 and 1,000 discs that overlap, and jsons of 1,000 to 200,000
polygons of 26 points, 100 an image. Every measurement is a process of its own, which opens and checks the data in one
process; the sizes take turns. Opening a json is compared with
`json.loads` of the same file in the same process, in seconds of the processor. The exponent is the slope of a line
through the logarithms of the medians.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m2f.bench.measurement_report import machine, spread, write_results

SIZE = (480, 640)  # height, width
OBJECTS = (10, 100, 1_000)
ANNOTATIONS = (1_000, 10_000, 100_000, 200_000)
PER_IMAGE, POINTS = 100, 26
TURNS = 2 * np.pi * np.arange(POINTS) / POINTS
CHECK = """
import json, sys, time
from pathlib import Path
from m2f.data.coco_instances import CocoInstances
from m2f.data.dataset_check import check_readers
found, path = {}, Path(sys.argv[1])
def measured(name, work):
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    found[name] = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}
    return result
reader = measured("open", lambda: CocoInstances(path))
if "inspect" in sys.argv[2:]:
    measured("inspect", lambda: check_readers({"train": reader}, workers=1))
measured("json", lambda: json.loads(path.read_bytes()))
print(json.dumps(found))
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=OBJECTS, help="of an image")
    parser.add_argument("--annotations", type=int, nargs="+", default=ANNOTATIONS, help="of a json")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, help="json file for the result")
    return parser.parse_args()


def make_json(folder: Path, images: int, annotations: int, radius: float) -> Path:
    """A dataset of polygons at random places; its images are one file under many names."""
    draw, (height, width) = np.random.default_rng(0), SIZE
    folder.mkdir()
    Image.fromarray(draw.integers(0, 256, (*SIZE, 3), np.uint8)).save(folder / "first.png", compress_level=1)
    names = [f"{i:06d}.png" for i in range(images)]
    for name in names:
        (folder / name).hardlink_to(folder / "first.png")
    low, high = (radius, radius), (width - radius, height - radius)
    disc = radius * np.stack([np.cos(TURNS), np.sin(TURNS)], 1)
    corners = (draw.uniform(low, high, (annotations, 2))[:, None] + disc).round(2).reshape(annotations, -1)
    content = {
        "images": [{"id": i, "file_name": name, "height": height, "width": width} for i, name in enumerate(names)],
        "annotations": [
            {
                "id": i,
                "image_id": i % images,
                "category_id": 1,
                "segmentation": [polygon],
                "area": round(np.pi * radius**2, 2),
                "bbox": [polygon[0] - 2 * radius, polygon[1] - radius, 2 * radius, 2 * radius],
                "iscrowd": 0,
            }
            for i, polygon in enumerate(corners.tolist())
        ],
        "categories": [{"id": 1, "name": "disc"}],
    }
    (folder / "train.json").write_text(json.dumps(content))
    return folder / "train.json"


def measure(path: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-c", CHECK, str(path), *words]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def in_turns(paths: dict[int, Path], repetitions: int, *words: str) -> dict[int, list[dict]]:
    runs: dict[int, list[dict]] = {number: [] for number in paths}
    for repetition in range(repetitions):
        for number in list(paths)[:: -1 if repetition % 2 else 1]:
            runs[number].append(measure(paths[number], *words))
    return runs


def row(runs: list[dict], stages: tuple[str, ...]) -> dict[str, Any]:
    return {
        stage: {kind: spread([run[stage][kind] for run in runs]) for kind in ("seconds", "cpu_seconds")}
        for stage in stages
    }


def exponent(rows: list[dict], number: str, stages: tuple[str, ...]) -> float:
    """How fast the median of the processor's seconds grows with the number."""
    seconds = [sum(row[stage]["cpu_seconds"]["median"] for stage in stages) for row in rows]
    return float(np.polyfit(np.log([row[number] for row in rows]), np.log(seconds), 1)[0])


def main(args: argparse.Namespace):
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as workplace:
        folder = Path(workplace)
        crowded = {count: make_json(folder / f"objects {count}", 1, count, 30) for count in args.objects}
        large = {
            count: make_json(folder / f"annotations {count}", max(1, count // PER_IMAGE), count, 15)
            for count in args.annotations
        }
        stages = ("open", "inspect")
        objects = [
            {"objects": count, **row(runs, stages)}
            for count, runs in in_turns(crowded, args.repetitions, "inspect").items()
        ]
        annotations = [
            {
                "annotations": count,
                "json_bytes": large[count].stat().st_size,
                **row(runs, ("open", "json")),
                "open_to_json": spread([run["open"]["cpu_seconds"] / run["json"]["cpu_seconds"] for run in runs]),
            }
            for count, runs in in_turns(large, args.repetitions).items()
        ]
        whole = [
            {"annotations": count, **row([measure(large[count], "inspect")], stages)} for count in args.annotations
        ]
    result = {
        "machine": machine(),
        "image": list(SIZE),
        "objects of an image": {"rows": objects, "exponent": exponent(objects, "objects", stages)},
        "annotations, opening": {"rows": annotations, "exponent": exponent(annotations, "annotations", ("open",))},
        "annotations, check": {"rows": whole, "exponent": exponent(whole, "annotations", stages)},
        "seconds": round(time.monotonic() - start),
    }
    print(json.dumps(result, indent=1))
    write_results(result, args.out)


if __name__ == "__main__":
    main(parse_args())
