"""The output folder of an evaluation.

results.json                                 settings, versions and all numbers; written last
TASK_classes.csv, TASK_classes.png           the numbers of each class
instances.json, panoptic.json, panoptic/, semantic/   the predictions; see m2f.evaluation.prediction_files
"""

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m2f.evaluation.class_table import write_class_chart, write_class_csv
from m2f.evaluation.prediction_files import INSTANCES, PANOPTIC, SEMANTIC
from m2f.output.folder_lock import files_in
from m2f.output.write_errors import naming

RESULTS = "results.json"
UNFINISHED = f".{RESULTS}"
_PROGRAM = "m2f val"  # by which a folder is known again
_TABLES = tuple(
    f"{task}_classes.{ending}" for task in ("panoptic", "instance", "semantic") for ending in ("csv", "png")
)
_WRITTEN = (INSTANCES, f"{PANOPTIC}.json", PANOPTIC, SEMANTIC, *_TABLES, RESULTS)


class ResultFolder:
    """Writes into the folder; one process alone does.

    Args:
        path: of the folder, which may be there and empty.
        overwrite: whether the results of an earlier evaluation in it may be removed.
    """

    def __init__(self, path: Path, overwrite: bool = False):
        self.path = path
        self.overwrite = overwrite

    def check(self) -> bool:
        """Whether there are results in the folder, which may be removed.

        Raises:
            ValueError: it has files that an evaluation did not write, or results that may not be removed.
            OSError: it cannot be read.
        """
        # What is left of results.json where the disk was full, or the process killed, is nobody's file.
        present = [name for name in files_in(self.path) if name != UNFINISHED]
        if present and not self._is_of_an_evaluation():
            found = ", ".join(present[:5]) + (", ..." if len(present) > 5 else "")
            raise ValueError(
                f"{self.path} holds files that {_PROGRAM} did not write ({found}); choose another --output"
            )
        if present and not self.overwrite:
            raise ValueError(
                f"{self.path} has the results of an earlier evaluation; choose another --output, or --overwrite"
            )
        return bool(present)

    def begin(self):
        """Make the folder, or clear it.

        Raises:
            ValueError, OSError: as `check`; or it cannot be made or written to.
        """
        for name in _WRITTEN if self.check() else ():
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self.path.mkdir(parents=True, exist_ok=True)
        self._write({"finished": False})  # so that the folder of an evaluation that was killed is known again

    def write_table(self, task: str, rows: Sequence[Mapping[str, Any]], column: str):
        """The per-class table of a task, as csv and as a picture of one of its columns."""
        write_class_csv(rows, self.path / f"{task}_classes.csv")
        write_class_chart(rows, column, self.path / f"{task}_classes.png")

    def finish(self, record: Mapping[str, Any]):
        """Write results.json, whole or not at all."""
        self._write({"finished": True, **record})

    def _write(self, record: Mapping[str, Any]):
        unfinished = self.path / UNFINISHED
        text = json.dumps(without_nan({"program": _PROGRAM, **record}), indent=1)
        with naming(self.path / RESULTS):
            unfinished.write_text(text + "\n", encoding="utf-8")
            os.replace(unfinished, self.path / RESULTS)

    def _is_of_an_evaluation(self) -> bool:
        try:
            record = json.loads((self.path / RESULTS).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError, RecursionError):
            return False
        return isinstance(record, dict) and record.get("program") == _PROGRAM


def without_nan(value: Any) -> Any:
    """The same of nested lists and mappings with None for NaN, which json does not have."""
    if isinstance(value, Mapping):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
