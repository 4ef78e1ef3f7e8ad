"""What was measured of a model, read from the files that `m2f val` and `m2f train` leave."""

import csv
import statistics
from pathlib import Path
from typing import Any

from m2f.checkpoints.json_object import read_json_object

RESULTS = "results.json"
LOG = "log.csv"  # of `m2f train`


def validation_results(folder: Path) -> dict[str, Any]:
    """results.json of `m2f val --output`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of something else, or of an evaluation that did not end.
    """
    path = Path(folder) / RESULTS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {RESULTS}; measure the model with `m2f val --output {folder}`")
    record = read_json_object(path)
    if not record.get("finished") or "dataset" not in record:
        raise ValueError(f"{path} is not that of a finished `m2f val`; measure the model with it")
    return record


def training_results(folder: Path, task: str) -> dict[str, Any] | None:
    """The numbers of the model that a training kept, in the form that those of `m2f val` have; None without any.

    Args:
        folder: that `m2f train` wrote.
        task: of the model, which is what a run measures unless its results say another.
    """
    path = Path(folder) / RESULTS
    record = read_json_object(path) if path.is_file() else {}
    if "step" not in record or not record.get("results"):
        return None
    task = record.get("task", task)
    return {**record, "results": {task: record["results"]}, "per_class": {task: record.get("per_class", ())}}


def training_speed(folder: Path) -> float | None:
    """Images a second in training, the median of the log's rows; None without a log."""
    path = Path(folder) / LOG
    if not path.is_file():
        return None
    with open(path, encoding="utf-8", newline="") as file:
        speeds = [float(row["images_per_second"]) for row in csv.DictReader(file) if row.get("images_per_second")]
    return statistics.median(speeds) if speeds else None
