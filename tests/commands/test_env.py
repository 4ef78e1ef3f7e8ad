import json
import os
import platform
from importlib import metadata

import torch

from m2f.cli import main
from m2f.commands.env import PACKAGES, environment
from m2f.modeling_m2f.kernels.kernel_report import cpu_kernel_report, kernel_report


def report(capsys) -> dict:
    assert main(["env", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_versions_hardware_and_kernels(capsys):
    rows = report(capsys)
    assert rows["python"].startswith(platform.python_version())
    for package in PACKAGES:
        assert rows[package] == metadata.version(package)
    assert rows["cores"].endswith(f"of {os.cpu_count()}")
    assert rows["threads"] == f"{torch.get_num_threads()} in torch"
    assert rows["instructions"].startswith(torch.backends.cpu.get_cpu_capability())
    assert rows["processor"] and "GiB available" in rows["memory"]
    assert rows["deformable attention"] == dict(kernel_report())
    assert "cpu" in rows["deformable attention"]
    assert rows["other kernels, on the CPU"] == dict(cpu_kernel_report())


def test_package_that_is_missing(capsys, monkeypatch):
    def missing(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", missing)
    assert report(capsys)["scipy"] == "not installed"


def test_text_has_a_line_for_each(capsys):
    rows = report(capsys)
    kernels, others = rows.pop("deformable attention"), rows.pop("other kernels, on the CPU")
    assert main(["env"]) == 0
    before, heading, after = capsys.readouterr().out.partition("deformable attention:\n")
    after, other_heading, last = after.partition("other kernels, on the CPU:\n")
    assert heading and other_heading
    for text, expected in ((before, rows), (after, kernels), (last, others)):
        lines = [line.strip().split("  ", 1) for line in text.splitlines()]
        assert [name for name, _ in lines] == list(expected)
        assert all(value.strip() for _, value in lines)


class FakeAccelerator:
    """Two devices as torch describes them."""

    name, total_memory = "Fast 100", 3 * 2**30

    @classmethod
    def get_device_properties(cls, index):
        return cls


def test_names_of_accelerators(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_device_module", lambda device: FakeAccelerator)
    rows = environment()
    assert (rows["device cuda:0"], rows["device cuda:1"]) == ("Fast 100, 3.0 GiB", "Fast 100, 3.0 GiB")
