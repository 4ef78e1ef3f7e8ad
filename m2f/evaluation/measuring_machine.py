"""The machine that a number was measured on, for whoever reads the number elsewhere."""

import platform
from pathlib import Path
from typing import Any

import torch
import transformers

_CPU_INFORMATION = Path("/proc/cpuinfo")  # Linux, where Python knows the architecture only


def measuring_machine(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """What a speed depends on.

    Args:
        device: that the model is on.
        processes: that computed together.

    Returns:
        "device" ("cpu", or a GPU's name), "processor" (its name), "threads" (of torch, in each process), "processes",
        "torch" and "transformers" (versions).
    """
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def processor_name() -> str:
    """The processor's name where the system tells it, else its architecture."""
    if _CPU_INFORMATION.is_file():
        lines = _CPU_INFORMATION.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
