"""Graphs in the libraries that run them, with as many threads as torch has, on the CPU."""

import importlib
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m2f.exported.graph_form import RUN_WITH, GraphForm, check_packages

# Inputs in the graph's order to outputs in its order.
Runner = Callable[[Sequence[Tensor]], list[Tensor]]


def open_graph(path: Path, form: GraphForm) -> Runner:
    """A graph ready to run; may be called from several threads.

    Raises:
        ImportError: the library that runs it is not installed.
        ValueError: it cannot read the file.
    """
    check_packages(form.format, RUN_WITH)
    try:
        return _OPENERS[form.format](path, form)
    except Exception as error:
        is_onnxruntimes = type(error).__module__.partition(".")[0] == "onnxruntime"  # RuntimeErrors in some versions
        if not (is_onnxruntimes or isinstance(error, RuntimeError | ValueError | OSError | KeyError)):
            raise
        raise ValueError(f"{path} cannot be read as a graph of {form.format} ({_first_line(error)})") from error


def _open_onnx(path: Path, form: GraphForm) -> Runner:
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads would go on spinning for a while, beside what prepares the next image.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        given = dict(zip(form.inputs, (x.contiguous().numpy() for x in inputs), strict=True))
        return [torch.from_numpy(x) for x in session.run(list(form.outputs), given)]

    return run


def _open_openvino(path: Path, form: GraphForm) -> Runner:
    openvino = import_openvino()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # else a processor that multiplies bfloat16 would use it
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
    lock = threading.Lock()  # a request is for one at a time

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with lock:
            outputs = request.infer([x.contiguous().numpy() for x in inputs], share_inputs=True)
            return [torch.from_numpy(np.array(outputs[i])) for i in range(len(form.outputs))]

    return run


def import_openvino() -> Any:
    # It reports its use over the network unless the person has opted out; without this package it cannot.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


def _open_torch_export(path: Path, form: GraphForm) -> Runner:
    return _torch_runner(torch.export.load(path).module())


def _open_aoti(path: Path, form: GraphForm) -> Runner:
    """The package is machine code, made for the processor that it was compiled on."""
    return _torch_runner(torch._inductor.aoti_load_package(str(path)))


def _torch_runner(program: Callable) -> Runner:
    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return list(program(*inputs))

    return run


_OPENERS: dict[str, Callable[[Path, GraphForm], Runner]] = {
    "onnx": _open_onnx,
    "openvino": _open_openvino,
    "torch-export": _open_torch_export,
    "aoti": _open_aoti,
}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
