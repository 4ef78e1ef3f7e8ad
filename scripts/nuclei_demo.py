"""Segments the bundled microscope images with the bundled checkpoint, less than a minute on a CPU, and compares with
their ground truth; or with --train, trains a small model from random weights first, some minutes.
`bash scripts/demo.sh` makes the environment first."""

import argparse
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean, median

from card_nuclei_checkpoint import EXAMPLES
from demo_training import train_and_show
from nuclei_card_text import VAL_OPTIONS
from transformers.utils import logging

from m2f.checkpoints.bundled_checkpoint import DEFAULT_CHECKPOINT, checkpoint_location
from m2f.cli import main as m2f


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=EXAMPLES, help="folder of train.json, val.json, train/ and val/")
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder for everything that is written")
    training = parser.add_argument_group("training")
    training.add_argument("--train", action="store_true", help="train a model instead of taking the bundled one")
    training.add_argument("--seconds", type=float, default=150, help="time for it, evaluation not included")
    training.add_argument("--steps", type=int, help="train for this many steps instead, the same on every run")
    training.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.seconds <= 0 or (args.steps is not None and args.steps < 1):
        parser.error(f"--seconds {args.seconds} and --steps {args.steps} must be above 0")
    return args


def run_command(*words: str | Path):
    """`m2f ...`, shown before it is run.

    Raises:
        SystemExit: it fails; with its exit code.
    """
    print("$ m2f", *words, flush=True)
    if code := m2f([str(word) for word in words]):
        raise SystemExit(code)


def table_lines(predictions: Path) -> list[str]:
    """Number, size and score of the nuclei of each image.

    Args:
        predictions: predictions.json of `m2f predict`.
    """
    content = json.loads(predictions.read_text(encoding="utf-8"))
    nuclei = defaultdict(list)
    for entry in content["annotations"]:
        nuclei[entry["image_id"]].append((entry["area"], entry["score"]))
    lines = [f"{'image':24}{'nuclei':>8}{'median area':>13}{'mean score':>12}"]
    for image in sorted(content["images"], key=lambda image: image["file_name"]):
        areas, scores = zip(*nuclei[image["id"]], strict=True) if nuclei[image["id"]] else ((), ())
        means = f"{median(areas):13.0f}{fmean(scores):12.3f}" if areas else f"{'-':>13}{'-':>12}"
        lines.append(f"{image['file_name']:24}{len(areas):8}{means}")
    return lines


def card_average_precision() -> float | None:
    """What the bundled checkpoint's model card says of the bundled images; None if it says nothing."""
    card = Path(checkpoint_location(None)) / "README.md"
    row = re.search(r"^\| `examples/nuclei`[^|]*\| ([0-9.]+) \|", card.read_text(encoding="utf-8"), re.MULTILINE)
    return None if row is None else float(row[1])


def segment_and_compare(args: argparse.Namespace):
    predictions, measured = args.out / "predictions", args.out / "measured"
    run_command("predict", args.data / "val", "--output", predictions, "--overwrite", "--device", "cpu")
    print("\n".join(["", *table_lines(predictions / "predictions.json"), ""]))
    # As the model card was measured.
    run_command("val", DEFAULT_CHECKPOINT, args.data, *VAL_OPTIONS, "--output", measured, "--overwrite")
    found = json.loads((measured / "results.json").read_text())["results"]["instance"]
    stated = card_average_precision() if args.data == EXAMPLES else None
    print(f"\nAP {found['AP']:.3f}, AP50 {found['AP50']:.3f}", end="")
    print("" if stated is None else f" (the model card says AP {stated:.3f})")
    print(f"report             {predictions / 'report.html'}, opens in a browser")
    print(f"overlays           {predictions / 'overlays'}/*.png")
    print(f"COCO predictions   {predictions / 'predictions.json'}")


def main(args: argparse.Namespace):
    logging.disable_progress_bar()
    train_and_show(args) if args.train else segment_and_compare(args)


if __name__ == "__main__":
    sys.exit(main(parse_args()))
