"""Trains, evaluates and predicts in a loop while somebody kills at random, and counts what was lost: nothing may be.

    python benchmarks/soak.py --minutes 60 --out benchmarks/results/soak_cpu.json

Each round has a seed of its own. A run of `m2f train` comes to its end undisturbed; the same command in another folder
is ended again and again, by SIGKILL with all of its workers or by SIGTERM, at moments drawn at random, and started
again. In between, the best model so far predicts. In the end the two folders must be equal: every row of the logs, the
steps from 1 on without a gap or a double, the weights, the optimizer and the random states, bit for bit; so must
`m2f val`'s numbers and the files of a `m2f predict` that was killed as well.

The commands run in forked children of one process that has imported m2f and computed nothing, because a start from
nothing takes most of the time of so short a run. A small model and images of 64 pixels, see `drawn_data.py`.
"""

import argparse
import csv
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from drawn_data import EDGE, draw_data, write_config

from m2f.bench.measurement_report import machine, write_results
from m2f.cli import command_parser
from m2f.cli import main as m2f_main
from m2f.training.checkpoint_contents import unusable_because

PLANNED = "--batch-size 2 --evaluate-every 10 --checkpoint-every 4 --log-every 1 --workers 1 --samples 1".split()
STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)  # in the run, or before it listens


class Soak:
    """The folders of the data and the model, and what has been counted.

    Args:
        folder: for everything.
        steps: of a run.
        log: of what the commands print.
    """

    def __init__(self, folder: Path, steps: int, log: Path):
        self.data = draw_data(folder / "data", train=12, val=4)
        self.config = write_config(folder)
        self.steps, self.log = steps, log
        self.counts: Counter[str] = Counter()
        self.lost: list[str] = []
        self._latest: Counter[Path] = Counter()  # step of the latest checkpoint of a folder

    def round(self, folder: Path, seed: int):
        """One seed: train, evaluate and predict, undisturbed and disturbed, and compare."""
        folder.mkdir()
        draw = random.Random(seed)
        whole, killed = folder / "whole", folder / "killed"
        seconds = self._done(self._train(whole, seed))
        self._disturbed(self._train(killed, seed), draw, seconds / 3, killed)
        self._compare_training(whole, killed, f"round {seed}")
        seconds = self._done(self._predict(whole, folder / "predicted"))
        self._disturbed(self._predict(killed, folder / "again"), draw, seconds)
        self._compare(predictions(folder / "predicted"), predictions(folder / "again"), f"round {seed}, predictions")
        for model in (whole, killed):
            self._done(["val", model, self.data, *FORMAT, "--workers", "0", "--cpu", "--output", f"{model}_val"])
        numbers = [
            json.loads(Path(f"{model}_val", "results.json").read_text())["results"] for model in (whole, killed)
        ]
        self._compare(*({"results": found} for found in numbers), f"round {seed}, m2f val")
        self.counts["rounds"] += 1

    def _train(self, output: Path, seed: int) -> list:
        places = ["--data", self.data, *FORMAT, "--scratch", self.config, "--output", output, "--cpu"]
        numbers = ["--seed", seed, "--max-steps", self.steps, "--crop-size", EDGE, "--learning-rate", 1e-3]
        return ["train", *places, *numbers, *PLANNED]

    def _predict(self, model: Path, output: Path) -> list:
        images = self.data / "images" / "train"
        return ["predict", images, "--checkpoint", model, "--output", output, "--threshold", 0, "--cpu"]

    def _done(self, words: list) -> float:
        """Runs a command to its end. Gives its seconds."""
        start = time.monotonic()
        code = ended(started(words, self.log))
        self.counts[f"{words[0]}, undisturbed"] += 1
        if code:
            self.lost.append(f"{' '.join(map(str, words))} ended with {code}")
        return time.monotonic() - start

    def _disturbed(self, words: list, draw: random.Random, seconds: float, model: Path | None = None):
        """Runs a command until it comes to its end, ending it after up to `seconds` each time."""
        while True:
            child = started(words, self.log)
            if not waited(child, draw.uniform(0, seconds)):
                number = draw.choice((signal.SIGKILL, signal.SIGTERM))
                os.killpg(child, number) if number == signal.SIGKILL else os.kill(child, number)
            code = ended(child)
            if code == 0:
                return
            name = {-signal.SIGKILL: "SIGKILL", **dict.fromkeys(STOPPED, "SIGTERM")}.get(code)
            self.counts[f"{words[0]}, {name}"] += 1
            if name is None:
                self.lost.append(f"{words[0]} ended with {code}")
                return
            if model is not None:
                self._look(model, draw)

    def _look(self, folder: Path, draw: random.Random):
        """After a kill: each checkpoint is whole, the latest is not older than the one seen before, and the best model
        predicts, now and then."""
        steps = sorted((folder / "checkpoints").glob("step-*"))
        broken = [f"{path}: {reason}" for path in steps if (reason := unusable_because(path))]
        self.counts["checkpoints looked at"] += len(steps)
        self.lost += broken
        latest = max((int(path.name.removeprefix("step-")) for path in steps), default=0)
        if latest < self._latest[folder]:
            self.lost.append(
                f"{folder}: the checkpoint of step {self._latest[folder]} is gone, {latest} is the latest"
            )
        self._latest[folder] = latest
        if (folder / "model.safetensors").is_file() and draw.random() < 0.2:
            self._done([*self._predict(folder, folder.parent / "between"), "--overwrite"])

    def _compare_training(self, whole: Path, killed: Path, where: str):
        for name in ("log.csv", "evaluations.csv"):
            rows = [numbers_of(folder / name) for folder in (whole, killed)]
            self._compare(*({f"{name}, row {i}": row for i, row in enumerate(found)} for found in rows), where)
        steps = [int(row["step"]) for row in numbers_of(killed / "log.csv")]
        if steps != list(range(1, self.steps + 1)):
            self.lost.append(f"{where}: log.csv has the steps {steps}")
        last = Path("checkpoints", f"step-{self.steps:08d}")
        names = [Path("model.safetensors"), Path("config.json"), *(last / name for name in STATE)]
        self._compare(
            *({str(name): (folder / name).read_bytes() for name in names} for folder in (whole, killed)), where
        )

    def _compare(self, expected: dict[str, Any], found: dict[str, Any], where: str):
        self.counts["things compared"] += len(expected)
        names = sorted(expected.keys() | found.keys())
        self.lost += [f"{where}: {name} differs" for name in names if expected.get(name) != found.get(name)]


FORMAT = ("--format", "instance-maps")
STATE = ("model.safetensors", "optimizer.safetensors", "random_states.json", "training_progress.json")
_OF_THE_CLOCK = ("images_per_second", "memory_gib")


def numbers_of(path: Path) -> list[dict[str, str]]:
    """Rows of a csv file without what differs from run to run."""
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if k not in _OF_THE_CLOCK} for row in csv.DictReader(file)]


def predictions(folder: Path) -> dict[str, bytes]:
    """Every file without what names the checkpoint or the moment."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    others = ("settings.json", "report.html")
    return {name: p.read_bytes() for name, p in files.items() if name not in others and "records" not in name}


def started(words: list, log: Path) -> int:
    """A command line of m2f in a child with a group of its own, whose number this gives."""
    child = os.fork()
    os.setpgid(child, child)  # by both, so that it is done before either goes on; 0 is the child itself
    if child:
        return child
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1), os.dup2(file, 2)
    code = 70
    try:
        code = m2f_main([str(word) for word in words])
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def waited(child: int, seconds: float) -> bool:
    """Whether the child ended by itself in so many seconds; it is not taken away."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            return True
        time.sleep(0.01)
    return False


def ended(child: int) -> int:
    """Its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--steps", type=int, default=30, help="of a run (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round (%(default)s)")
    parser.add_argument("--out", type=Path, help="json file for the counts")
    args = parser.parse_args()
    for command in ("train", "predict", "val"):
        command_parser(command)  # imports it, for all children
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        soak = Soak(Path(name), args.steps, Path(name) / "printed.txt")
        seed = args.seed
        while seed == args.seed or time.monotonic() - start < 60 * args.minutes:
            soak.round(Path(name) / f"round{seed}", seed)
            seed += 1
            minutes = (time.monotonic() - start) / 60
            found = {"minutes": round(minutes, 1), "steps": args.steps, **soak.counts, "lost": soak.lost}
            about = machine(cores=os.cpu_count(), threads=torch.get_num_threads())
            write_results({"machine": about, **found}, args.out)
            print(json.dumps(found), flush=True)
        if soak.lost:
            print(soak.log.read_text()[-5000:], file=sys.stderr)
    return 1 if soak.lost else 0


if __name__ == "__main__":
    sys.exit(main())
