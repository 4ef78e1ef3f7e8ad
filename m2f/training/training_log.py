"""What is written down of a run: rows of csv, and the means of the losses between them."""

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2f.output.safe_text import csv_cell, csv_text
from m2f.output.write_errors import naming
from m2f.training.optimization_step import StepResult


class CsvLog:
    """A table with a header and a row for each entry, on the disk as soon as it is written.

    Args:
        path: the file. If it exists, its rows up to `step` stay: a run that goes on from a checkpoint writes the later
            ones again.
        step: of the checkpoint.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        self.columns: list[str] | None = None
        rows = [row for row in _rows(path) if int(row["step"]) <= step] if path.is_file() else []
        if rows:
            self.columns = list(map(csv_text, rows[0]))
            _replace(path, "".join(map(_line, [rows[0], *(row.values() for row in rows)])))
        else:
            path.unlink(missing_ok=True)

    def append(self, row: Mapping[str, Any]):
        """Adds a row; the first one's keys are the columns. A key that is missing leaves an empty cell.

        Raises:
            ValueError: a key that is no column.
            OSError: the file cannot be written.
        """
        text = ""
        if self.columns is None:
            self.columns = list(row)
            text = _line(map(csv_cell, self.columns))
        unknown = [name for name in row if name not in self.columns]
        if unknown:
            raise ValueError(f"{self.path} has no columns {unknown}; it was begun by another version, move it away")
        text += _line([csv_cell(row.get(name, "")) for name in self.columns])
        with naming(self.path), open(self.path, "a", encoding="utf-8", newline="") as file:
            file.write(text)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a csv file; what a killed process left of a row is not one."""
    return [{csv_text(name): csv_text(cell) for name, cell in row.items()} for row in _rows(path)]


def _rows(path: Path) -> list[dict[str, str]]:
    """As the file has them."""
    with open(path, encoding="utf-8", newline="") as file:
        text = file.read()
    lines = text[: text.rfind("\n") + 1]
    rows = list(csv.DictReader(io.StringIO(lines)))
    return [row for row in rows if None not in row and None not in row.values()]


class LossMeter:
    """Means of the loss and its terms over some steps.

    Args:
        state: from `state_dict`, to go on between two rows.
    """

    def __init__(self, state: Mapping[str, Any] | None = None):
        self.count = int(state["count"]) if state else 0
        self.sums: dict[str, float] = dict(state["sums"]) if state else {}

    def add(self, result: StepResult):
        """Counts a step that changed the weights; the others have no finite numbers."""
        if result.skipped_because is not None:
            return
        assert result.loss is not None and result.gradient_norm is not None  # as it changed the weights
        self.count += 1
        for name, value in {"loss": result.loss, "gradient_norm": result.gradient_norm, **result.terms}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        """The means since the last call, empty if there was no step."""
        means = {name: value / self.count for name, value in self.sums.items()}
        self.count, self.sums = 0, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "sums": dict(self.sums)}


def _line(cells) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _replace(path: Path, text: str):
    """Whole or not at all."""
    unfinished = path.with_name(f".{path.name}.new")
    with naming(path):
        unfinished.write_text(text, encoding="utf-8", newline="")
        os.replace(unfinished, path)
