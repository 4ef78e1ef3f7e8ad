"""How long the average precision of a dataset takes beyond inference, and how far it is from pycocotools' numbers.

    python benchmarks/benchmark_evaluation.py nuclei/instances_val.json --out benchmarks/results/evaluation_cpu.json

Predictions are the annotations, moved by up to two pixels, a tenth of them missing, with random scores. The time holds
reading the truth, counting every image, and the summary; encoding the predictions belongs to post-processing.
"""

import argparse
import contextlib
import io
import json
import time
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from m2f.bench.measurement_report import machine, spread, write_results
from m2f.data.coco_instances import CocoInstances
from m2f.evaluation.instance_average_precision import InstanceAveragePrecision
from m2f.validation.evaluation_truth import truth_of


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path, help="COCO instance json")
    parser.add_argument("--image-folder", type=Path, help="by default beside the json, named like its split")
    parser.add_argument("--max-detections", type=int, default=400)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, help="json file for the result")
    return parser.parse_args()


def moved_truth(truth: COCO) -> dict[int, dict]:
    """Image id -> a prediction as post-processing gives it."""
    draw = np.random.default_rng(0)
    labels = {category: label for label, category in enumerate(sorted(truth.getCatIds()))}
    predictions = {}
    for image_id in truth.getImgIds():
        annotations = [a for a in truth.loadAnns(truth.getAnnIds(image_id)) if draw.random() > 0.1]
        masks = [np.roll(truth.annToMask(a), draw.integers(-2, 3, 2), (0, 1)) for a in annotations]
        predictions[image_id] = {
            "segmentation": [coco_mask.encode(np.asfortranarray(mask)) for mask in masks],
            "segments_info": [
                {"label_id": labels[a["category_id"]], "score": float(draw.random())} for a in annotations
            ],
        }
    return predictions


def measure(args: argparse.Namespace, predictions: dict[int, dict], boundary: bool) -> tuple[float, dict[str, float]]:
    """Seconds and numbers."""
    start = time.perf_counter()
    dataset = CocoInstances(args.annotations, args.image_folder or args.annotations.parent)
    truth = truth_of(dataset)
    metric = InstanceAveragePrecision(dataset.id2label, (1, 10, args.max_detections), boundary)
    for index, entry in enumerate(dataset.images):
        metric.process([predictions[entry.id]], [truth.instance(index, None)], [entry.id])
    numbers = metric.evaluate()
    return time.perf_counter() - start, numbers


def reference(truth: COCO, predictions: dict[int, dict], max_detections: int) -> np.ndarray:
    """pycocotools' precision at every threshold of overlap and recall, over all sizes, with all detections."""
    categories = sorted(truth.getCatIds())
    rows = [
        {
            "image_id": image_id,
            "category_id": categories[info["label_id"]],
            "segmentation": rle,
            "score": info["score"],
        }
        for image_id, found in predictions.items()
        for rle, info in zip(found["segmentation"], found["segments_info"], strict=True)
    ]
    evaluation = COCOeval(truth, truth.loadRes(rows), "segm")
    evaluation.params.maxDets = [1, 10, max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, 0, -1]


def main(args: argparse.Namespace):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(args.annotations))
        predictions = moved_truth(truth)
        precision = reference(truth, predictions, args.max_detections)
    result = {
        "machine": machine(),
        "images": len(predictions),
        "annotations": len(truth.getAnnIds()),
        "predictions": sum(len(found["segmentation"]) for found in predictions.values()),
    }
    for name, boundary in (("masks", False), ("masks and boundaries", True)):
        runs = [measure(args, predictions, boundary) for _ in range(args.repetitions)]
        numbers = runs[0][1]
        result[name] = {
            "seconds": spread([seconds for seconds, _ in runs]),
            "AP": numbers["AP"],
            "AP_minus_pycocotools": numbers["AP"] - float(precision[precision > -1].mean()),
            "AP50_minus_pycocotools": numbers["AP50"] - float(precision[0][precision[0] > -1].mean()),
        }
    print(json.dumps(result, indent=1))
    write_results(result, args.out)


if __name__ == "__main__":
    main(parse_args())
