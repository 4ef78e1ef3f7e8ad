"""How many points polygons of a dataset's masks have, and how well they fit, by their tolerance.

    python benchmarks/polygon_tolerances.py nuclei/instances_train.json nuclei/instances_val.json \\
        --out benchmarks/results/polygon_tolerances.json
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from m2f.bench.measurement_report import machine, write_results
from m2f.data.dataset_formats import open_dataset
from m2f.output_formats.mask_outlines import part_polygons
from m2f.output_formats.saved_image import Outliner, SavedObject


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", help="paths as `m2f check` takes them")
    parser.add_argument("--tolerances", type=float, nargs="+", default=[0, 0.5, 0.7, 1], help="in pixels")
    parser.add_argument("--out", type=Path, help="json file for the result")
    return parser.parse_args()


def objects(paths: list[str]) -> Iterator[SavedObject]:
    """Those of all images."""
    for path in paths:
        for sample in open_dataset(path):
            for mask in sample.segments.masks() != 0:
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
                yield SavedObject(0, "object", 1.0, box, mask[box[1] : box[3], box[0] : box[2]].copy())


def row(tolerance: float, found: list[SavedObject]) -> dict[str, float]:
    outliner = Outliner(tolerance)
    points = [len(polygon) for entry in found for polygon in part_polygons(outliner.parts(entry))]
    return {
        "tolerance": tolerance,
        "points_of_an_object": round(sum(points) / len(found), 1),
        "mean_iou": round(statistics.fmean(outliner.ious), 4),
        "lowest_iou": round(min(outliner.ious), 3),
    }


def main():
    args = parse_args()
    found = list(objects(args.datasets))
    results = {
        "machine": machine(),
        "objects": len(found),
        "median_pixels": statistics.median(entry.area for entry in found),
        "tolerances": [row(tolerance, found) for tolerance in args.tolerances],
    }
    print(json.dumps(results, indent=1))
    write_results(results, args.out)


if __name__ == "__main__":
    main()
