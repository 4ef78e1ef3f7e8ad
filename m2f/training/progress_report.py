"""What a person sees of a run while it goes on: a bar at a terminal, lines elsewhere, trackers, files of curves."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from m2f.output.safe_text import terminal_text
from m2f.training.loss_curves import Panel, draw_panels
from m2f.training.training_log import CsvLog, read_rows

LOG, EVALUATIONS, CURVES = "log.csv", "evaluations.csv", "curves.png"
_BAR_TERMS = ("loss", "loss_ce", "loss_mask", "loss_dice")


class ProgressReport:
    """Writes on the main process alone; the others may call everything.

    Args:
        folder: of the run.
        step, max_steps: where it begins and ends.
        evaluated_step: of the last evaluation before `step`, 0 without one.
        images_per_step: over all processes.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: Path,
        step: int,
        max_steps: int,
        evaluated_step: int,
        images_per_step: int,
    ):
        self.accelerator = accelerator
        self.folder = folder
        self.max_steps = max_steps
        self.images_per_step = images_per_step
        self.is_main = accelerator.is_main_process
        self.at_terminal = sys.stderr.isatty()
        self._seconds, self._steps, self._started = 0.0, 0, 0.0
        self._bar = tqdm(total=max_steps, initial=step, unit="step", disable=not (self.is_main and self.at_terminal))
        if self.is_main:
            self.log = CsvLog(folder / LOG, step)
            self.evaluations = CsvLog(folder / EVALUATIONS, evaluated_step)

    def say(self, text: str):
        """A line, above the bar if there is one."""
        if self.is_main:
            tqdm.write(terminal_text(text), file=sys.stderr)

    def begin_step(self):
        self._started = time.monotonic()

    def end_step(self):
        """Counts the step's time; evaluations and checkpoints lie between steps and do not count."""
        self._seconds += time.monotonic() - self._started
        self._steps += 1
        self._bar.update()

    def losses(self, step: int, means: Mapping[str, float], others: Mapping[str, Any]):
        """A row of the log: the means since the last one, and other numbers of now."""
        seconds = self._seconds / max(self._steps, 1)
        self._seconds, self._steps = 0.0, 0
        row = {
            "step": step,
            **others,
            "images_per_second": round(self.images_per_step / seconds, 3) if seconds else 0.0,
            "memory_gib": round(_memory(self.accelerator.device) / 2**30, 3),
            "loss": float("nan"),
            "gradient_norm": float("nan"),
            **means,
        }
        self.accelerator.log({name: value for name, value in row.items() if name != "step"}, step=step)
        if not self.is_main:
            return
        self.log.append(row)
        shown = {name: f"{row[name]:.4g}" for name in (*_BAR_TERMS, "learning_rate") if name in row}
        shown |= {"images/s": f"{row['images_per_second']:.3g}", "memory": f"{row['memory_gib']:.1f}G"}
        self._bar.set_postfix(shown)
        if not self.at_terminal:
            left = _clock((self.max_steps - step) * seconds)
            text = "  ".join(f"{name} {value}" for name, value in shown.items())
            self.say(f"step {step}/{self.max_steps}  {text}  left {left}")

    def evaluation(self, step: int, results: Mapping[str, float]):
        """A row of the evaluations, and the curves drawn anew."""
        self.accelerator.log({f"eval_{name}": value for name, value in results.items()}, step=step)
        if self.is_main:
            self.evaluations.append({"step": step, **results})
        shown = [f"{name} {value:.4f}" for name, value in results.items()]
        self.say(f"evaluation after step {step}: {', '.join(shown[:4])}")

    def draw(self, metric: str | None):
        """The curves so far, with the evaluations' main number if there are any."""
        if not self.is_main or not self.log.path.is_file():
            return
        rows = read_rows(self.log.path)
        panels = [Panel("loss", {"": _points(rows, "loss")})]
        panels += [Panel("terms of the last prediction", {name: _points(rows, name) for name in _BAR_TERMS[1:]})]
        panels += [Panel("learning rate", {"": _points(rows, "learning_rate")})]
        if metric and self.evaluations.path.is_file():
            panels.append(Panel(metric, {"": _points(read_rows(self.evaluations.path), metric)}))
        draw_panels(panels, self.folder / CURVES)

    def close(self):
        self._bar.close()
        self.accelerator.end_training()


def _points(rows: list[dict[str, str]], column: str) -> list[tuple[float, float]]:
    return [(float(row["step"]), float(row[column])) for row in rows if row.get(column)]


def _memory(device: torch.device) -> int:
    """Bytes: the most that a GPU held so far; on a CPU what the process holds now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import psutil

    return psutil.Process().memory_info().rss


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
