"""What M2F_KERNELS and a missing kernel do to all kernels alike, and what asking for the policy does not load."""

import os
import subprocess
import sys

import pytest
import torch
from ms_deform_attn_inputs import LEVELS, make_inputs

import m2f
from m2f.modeling_m2f.kernels.cpu_source import CpuSource
from m2f.modeling_m2f.kernels.kernel_policy import KernelUnavailableError, explain_reference, kernels_choice, warned
from m2f.modeling_m2f.kernels.kernel_report import CPU_SOURCES
from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn


@pytest.fixture(autouse=True)
def no_warning_was_given_yet():
    warned.clear()


def test_one_reason_is_one_warning_for_all_kernels(monkeypatch):
    """As without a compiler; another reason is another warning."""
    monkeypatch.setenv("M2F_KERNELS", "auto")
    cpu, reason = torch.device("cpu"), "no C++ compiler on this machine of a test"
    monkeypatch.setattr(CpuSource, "unavailable_reason", lambda *_, **sizes: reason)
    with pytest.warns(RuntimeWarning) as given:
        ms_deform_attn(*make_inputs(LEVELS[:2]))
        assert not any(source.runs_on(cpu, **usual) for source, usual in CPU_SOURCES.values())
    assert len(given) == 1 and reason in str(given[0].message)
    with pytest.warns(RuntimeWarning, match="another reason"):
        explain_reference(cpu, "another reason", "A test")


def test_processes_that_load_data_leave_the_warning_to_the_main_one(monkeypatch, recwarn):
    monkeypatch.setenv("M2F_KERNELS", "auto")
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: "one of two")
    assert not explain_reference(torch.device("cpu"), "of a reason in a worker", "A test") and not recwarn.list


def test_a_setting_that_nobody_knows_is_an_error(monkeypatch):
    monkeypatch.setenv("M2F_KERNELS", "fast")
    with pytest.raises(ValueError, match="'fast'.*auto, reference, compiled, native"):
        kernels_choice()


def test_native_is_an_error_where_there_is_no_kernel(monkeypatch):
    monkeypatch.setenv("M2F_KERNELS", "native")
    with pytest.raises(KernelUnavailableError, match="M2F_KERNELS=native.*no compiler of a test"):
        explain_reference(torch.device("cpu"), "no compiler of a test", "A test")


IMPORT = """
import importlib, sys, types
import torch

if {alone}:  # without m2f's root, which imports the model
    sys.modules["m2f"] = types.ModuleType("m2f")
    sys.modules["m2f"].__path__ = {path!r}
importlib.import_module({module!r})
words = ("nvrtc", "cuda", "ms_deform_attn") if {alone} else ("nvrtc", "cuda")
print([name for name in sys.modules if name.startswith("m2f.") and any(word in name for word in words)])
"""


@pytest.mark.parametrize(
    "module",
    [
        "m2f.modeling_m2f.kernels.kernel_policy",
        "m2f.modeling_m2f.linear",
        "m2f.image_processing.image_processing_m2f",
    ],
)
@pytest.mark.parametrize("alone", [False, True])
def test_nvrtc_and_the_driver_are_not_imported_without_a_gpu(module, alone):
    """Linear layers and the image processor by themselves have no need of deformable attention either."""
    code = IMPORT.format(module=module, alone=alone, path=list(m2f.__path__))
    run = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "[]\n"), run.stdout + run.stderr
