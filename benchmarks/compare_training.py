"""Our training and transformers' on the same data, from the same weights, for the same time, side by side.

    python benchmarks/comparison_start.py DATA START
    python benchmarks/compare_training.py nuclei --data DATA --start START --steps 1500 \
        --work FOLDER --out benchmarks/results/training_nuclei_cpu.json

writes the numbers, and the two loss curves as a PNG beside them.

`m2f train` does `--steps` steps, and transformers' model (`train_transformers.py`) trains until they are done. Both
run at the same time, on one core each, so that whatever else the machine does meets both. The first argument names a
recipe in benchmarks/recipes.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from m2f.bench.measurement_report import machine, write_results
from m2f.evaluation.result_folder import without_nan
from m2f.training.loss_curves import Panel, draw_panels
from m2f.training.option_values import read_options
from m2f.training.training_log import read_rows

HERE = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=sorted(path.stem for path in (HERE / "recipes").glob("*.yaml")))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--start", type=Path, required=True, help="what comparison_start.py wrote")
    parser.add_argument("--steps", type=int, required=True, help="of ours")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the two runs, which must not hold earlier ones"
    )
    parser.add_argument("--out", type=Path, required=True, help="json file for the result")
    return parser.parse_args()


def run_both(args: argparse.Namespace) -> tuple[float, Path, Path]:
    """Seconds of our run, evaluation included, and the folders."""
    shared = ["--config", HERE / "recipes" / f"{args.recipe}.yaml", "--data", args.data, "--model", args.start]
    shared += ["--max-steps", args.steps, "--seed", args.seed]
    ours, theirs = args.work / "ours", args.work / "transformers"
    commands = {
        ours: [sys.executable, "-m", "m2f", "train", *shared, "--resume", "never"],
        theirs: [sys.executable, HERE / "train_transformers.py", *shared, "--beside", ours],
    }
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = {}
    for folder, command in commands.items():
        folder.mkdir(parents=True)
        with open(folder / "output.txt", "w") as output:
            words = [*map(str, command), "--output", str(folder)]
            running[folder] = subprocess.Popen(words, env=environment, stdout=output, stderr=subprocess.STDOUT)
    start = time.perf_counter()
    if running[ours].wait():
        running[theirs].terminate()
        raise SystemExit(f"our run failed: see {ours / 'output.txt'}")
    seconds = time.perf_counter() - start
    if running[theirs].wait():
        raise SystemExit(f"transformers' run failed: see {theirs / 'output.txt'}")
    return seconds, ours, theirs


def our_curve(folder: Path, batch_size: int) -> list[dict[str, float]]:
    """Loss over the seconds of training."""
    curve, seconds, before = [], 0.0, 0
    for row in read_rows(folder / "log.csv"):
        step = int(row["step"])
        seconds += (step - before) * batch_size / float(row["images_per_second"])
        before = step
        curve.append({"step": step, "seconds": round(seconds, 1), "loss": round(float(row["loss"]), 3)})
    return curve


def draw(curves: dict[str, list[dict[str, float]]], path: Path):
    lines = {name: [(row["seconds"], row["loss"]) for row in rows] for name, rows in curves.items()}
    draw_panels([Panel("loss over seconds of training", lines)], path)


def main(args: argparse.Namespace):
    elapsed, ours, theirs = run_both(args)
    evaluations = read_rows(ours / "evaluations.csv")
    curve = our_curve(ours, read_options(HERE / "recipes" / f"{args.recipe}.yaml")["batch_size"])
    result = {
        "machine": machine(threads_each=1),
        "recipe": args.recipe,
        "seed": args.seed,
        "command": f"compare_training.py {args.recipe} --steps {args.steps}",
        "ours": {
            "steps": args.steps,
            "training_seconds": curve[-1]["seconds"],
            "seconds_with_evaluation": round(elapsed, 1),
            **{name: float(value) for name, value in evaluations[-1].items() if name != "step"},
        },
        "transformers": json.loads((theirs / "results.json").read_text()),
        "curves": {
            "ours": curve,
            "transformers": [{name: float(x) for name, x in row.items()} for row in read_rows(theirs / "log.csv")],
        },
    }
    write_results(without_nan(result), args.out)
    draw(result["curves"], args.out.with_suffix(".png"))
    for name in ("ours", "transformers"):
        print(name, json.dumps(result[name]))


if __name__ == "__main__":
    main(parse_args())
