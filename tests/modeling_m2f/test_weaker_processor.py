"""Processors without AVX-512, and without AVX2, played by oneDNN's and PyTorch's own switches in processes of their
own, because both are read once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TESTS = (
    "tests/modeling_m2f/weaker_processor_cases.py",
    "tests/parity/test_golden_models.py::test_mini_models_make_all_predictions_of_the_original",
    "tests/parity/test_golden_models.py::test_full_models_make_the_predictions_of_the_original",
    "tests/modeling_m2f/test_swin.py::test_equals_transformers",
    "tests/modeling_m2f/test_swin.py::test_other_types",
    "tests/test_pipeline.py::test_the_pipeline_computes_what_model_and_processor_compute",
)


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="not an x86 processor")
@pytest.mark.parametrize("onednn, aten", [("AVX2", "avx2"), ("SSE41", "default")])
def test_whole_models_run_on_a_weaker_processor(onednn, aten):
    """On processors without AVX-512 bfloat16 ended in "could not create a primitive descriptor"."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": onednn, "ATEN_CPU_CAPABILITY": aten}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
