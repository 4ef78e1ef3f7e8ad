"""Measures the checkpoint `nuclei` on whole images and writes its model card: the last step of
train_nuclei_checkpoint.py, which may be run alone too.

    python scripts/card_nuclei_checkpoint.py DATA FOLDER

DATA and FOLDER are those of train_nuclei_checkpoint.py. FOLDER/measured gets what `m2f val` gives on the split val of
DATA and on the images that come with the sources; FOLDER/nuclei gets README.md and card/.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nuclei_card_text import (
    CURVES_FILE,
    LIMITS,
    SHOWN_SCORE,
    USAGE,
    VAL_OPTIONS,
    failures_section,
    numbers_section,
    training_facts,
)
from nuclei_pictures import compared, save_within
from pycocotools import mask as rle_masks

from m2f.cli import main as m2f
from m2f.data.dataset_formats import open_dataset
from m2f.evaluation.panoptic_quality import PanopticQuality
from m2f.hub.model_card import CardFacts, write_card

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "nuclei"
LICENSE, DATASET = "apache-2.0", "BBBC038 (2018 Data Science Bowl, stage 1)"
FAILURES, FAILURE_BYTES = 4, 70_000  # pictures, and the largest size of each


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    return parser.parse_args(words)


def measure(data: Path, folder: Path):
    """`m2f val` of the packaged weights.

    Raises:
        RuntimeError: it fails.
    """
    for name, images in (("val", data), ("examples", EXAMPLES)):
        words = ["val", folder / "nuclei", images, *VAL_OPTIONS, "--output", folder / "measured" / name, "--overwrite"]
        if code := m2f([str(word) for word in words]):
            raise RuntimeError(f"m2f val of {images} ended with {code}")


def shown_instances(results: Path) -> dict[Any, list[np.ndarray]]:
    """Image id -> masks of the instances that `m2f predict` would show, best first."""
    found: dict[Any, list[np.ndarray]] = {}
    for entry in sorted(json.loads((results / "instances.json").read_text()), key=lambda entry: -entry["score"]):
        if entry["score"] >= SHOWN_SCORE:
            found.setdefault(entry["image_id"], []).append(rle_masks.decode(entry["segmentation"]) > 0)
    return found


def as_segments(masks: Sequence[np.ndarray], size: tuple[int, int]) -> dict[str, Any]:
    """Instances as segments that do not overlap, the better one on top."""
    ids = np.zeros(size, np.int32)
    for number, mask in reversed(list(enumerate(masks, 1))):
        ids[mask] = number
    infos = [{"id": number, "label_id": 0} for number in np.unique(ids[ids > 0]).tolist()]
    return {"segmentation": ids, "segments_info": infos}


def panoptic_quality(dataset: Any, found: Mapping[Any, list[np.ndarray]]) -> tuple[float, list[float]]:
    """PQ of all images, and of each."""
    every, single = [], PanopticQuality(dataset.id2label, allow_overlaps=True)
    whole = PanopticQuality(dataset.id2label, allow_overlaps=True)
    for entry, sample in zip(dataset.images, dataset, strict=True):
        segments = as_segments(found.get(entry.id, ()), sample.segments.size)
        single.reset()
        for metric in (single, whole):
            metric.process([segments], [sample.segments], [entry.id])
        every.append(single.evaluate()["PQ"])
    return whole.evaluate()["PQ"], every


def draw_failures(
    dataset: Any, found: Mapping[Any, list[np.ndarray]], qualities: Sequence[float], folder: Path
) -> list[str]:
    """Pictures of the images with the lowest PQ; gives the lines of the card that show them."""
    lines = []
    for number, index in enumerate(np.argsort(qualities, kind="stable")[:FAILURES].tolist(), 1):
        sample, masks = dataset[index], found.get(dataset.images[index].id, [])
        path = folder / "card" / f"failure_{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        truth = sample.segments.masks()
        save_within(compared(sample.image, truth, np.array(masks).reshape(-1, *truth.shape[1:])), path, FAILURE_BYTES)
        lines += [f"{sample.name}: PQ {qualities[index]:.3f}, {len(truth)} nuclei, {len(masks)} found\n"]
        lines += [f"![image, truth, prediction](card/{path.name})\n"]
    return lines


def write_nuclei_card(data: Path, folder: Path):
    """README.md and card/ in FOLDER/nuclei."""
    package, rows = folder / "nuclei", {}
    failures: list[str] = []
    for name, images in (("val", data), ("examples", EXAMPLES)):
        results, dataset = folder / "measured" / name, open_dataset(images, "val")
        found = shown_instances(results)
        quality, each = panoptic_quality(dataset, found)
        record = json.loads((results / "results.json").read_text())
        kind = "validation split" if name == "val" else "`examples/nuclei`, split val"
        rows[f"{kind}: {len(dataset)}"] = {**record["results"]["instance"], "PQ": quality}
        if name == "val":
            failures = draw_failures(dataset, found, each, package)
    processor = json.loads((package / "preprocessor_config.json").read_text())
    limits = LIMITS.format(
        tile=processor["tile"], overlap=processor["tile_overlap"], size=processor["size"]["longest_edge"]
    )
    facts = CardFacts(
        LICENSE,
        (DATASET,),
        "none",
        folder / "measured" / "val",
        name="nuclei",
        usage=USAGE,
        training=training_facts(folder / "run"),
        sections=(numbers_section(rows), failures_section(failures), limits),
    )
    curves = folder / "run" / CURVES_FILE
    if curves.is_file():  # not of a run of a few steps
        shutil.copyfile(curves, package / CURVES_FILE)
    print(f"model card: {write_card(package, facts)}")
    (package / CURVES_FILE).unlink(missing_ok=True)  # it is in card/ now


def main(args: argparse.Namespace):
    measure(args.data, args.folder)
    write_nuclei_card(args.data, args.folder)


if __name__ == "__main__":
    sys.exit(main(parse_args()))
