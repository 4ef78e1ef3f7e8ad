"""Prints what a bug report needs: versions, hardware, and which kernels run on each device and why."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import torch

from m2f.commands.messages import print_lines
from m2f.commands.shared_arguments import add_shared_arguments
from m2f.data.dataset_check import usable_cores
from m2f.evaluation.measuring_machine import processor_name
from m2f.modeling_m2f.kernels.kernel_report import cpu_kernel_report, kernel_report
from m2f.modeling_m2f.native_types import instruction_set

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "huggingface_hub",
    "numpy",
    "scipy",
    "pillow",
    "pycocotools",
)
_GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser):
    add_shared_arguments(parser, json={})


def run(args: argparse.Namespace) -> int:
    report: dict[str, Any] = {
        **environment(),
        "deformable attention": dict(kernel_report()),
        "other kernels, on the CPU": dict(cpu_kernel_report()),
    }
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        print_lines(_lines(report))
    return 0


def environment() -> dict[str, str]:
    """What -> version or description, of everything but the kernels."""
    return {
        "m2f": sys.modules["m2f"].__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        **{package: _version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "processor": f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}",
        "cores": f"{usable_cores()} usable of {os.cpu_count()}",
        "instructions": instruction_set(),
        "threads": f"{torch.get_num_threads()} in torch",
        "memory": _memory(),
        **_devices(),
    }


def _lines(report: Mapping[str, str | Mapping[str, str]]) -> Iterator[str]:
    width = max(map(len, report)) + 2
    for name, value in report.items():
        if isinstance(value, str):
            yield f"{name:{width}}{value}"
        else:
            yield f"{name}:"
            yield from (f"  {line}" for line in _lines(value))


def _version(package: str) -> str:
    """Read without importing the package, which takes seconds for some and fails for broken ones."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    return f"{memory.total / _GIB:.1f} GiB, {memory.available / _GIB:.1f} GiB available"


def _devices() -> dict[str, str]:
    """Accelerator -> its name and memory; one entry that says so where there is none."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return {"devices": "cpu only"}
    module = torch.get_device_module(kind)
    if not hasattr(module, "get_device_properties"):  # mps, of which there is one
        return {"device": kind.type}
    properties = [module.get_device_properties(i) for i in range(torch.accelerator.device_count())]
    return {
        f"device {kind.type}:{i}": f"{device.name}, {device.total_memory / _GIB:.1f} GiB"
        for i, device in enumerate(properties)
    }
