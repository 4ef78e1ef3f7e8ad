"""What the benchmarks say about a machine and about repeated measurements."""

import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from m2f.modeling_m2f.native_types import instruction_set


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def machine(device: str = "cpu", **more: Any) -> dict[str, Any]:
    """What a number depends on: hardware, versions, and what the benchmark adds, such as its threads."""
    found = {
        "processor": processor(),
        "instructions": instruction_set(),
        **more,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if device == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def write_results(results: dict[str, Any], path: Path | None):
    """As json, into a folder that is made if needed; nothing without a path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
