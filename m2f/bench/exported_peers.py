"""transformers' model, and ours, as a graph of another inference library or of torch's own, in float32 on a CPU.

Each library gets what makes it fastest: a graph for one shape of the input, whose constants are folded, all of its
optimisations, and as many threads as torch has.
"""

import importlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from m2f.exported.graph_form import FORMATS, GraphForm
from m2f.exported.graph_runtimes import import_openvino, open_graph
from m2f.exported.graph_writers import quiet_exporters, trace_network, write_graph
from m2f.exported.portable_network import PortableNetwork
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

# Library -> what has to be installed to export to it and to run it; torch's own packages need nothing.
PACKAGES = {
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "torch-export": (),
    "aoti": (),
}

_Run = Callable[[np.ndarray], Sequence[np.ndarray]]


def missing_packages(library: str) -> list[str]:
    return [package for package in PACKAGES[library] if find_spec(package) is None]


def library_versions(libraries: Iterable[str]) -> dict[str, str]:
    """Of libraries that are installed; torch's own has no version beside torch's."""
    return {library: _module(library).__version__ for library in libraries if PACKAGES[library]}


class ExportedModel:
    """A network in another library. The graph is made for the shape of the first input, and anew for another shape.

    Args:
        model: in evaluation mode, on the CPU in float32; ours becomes the graph that `m2f export` makes.
        library: of `PACKAGES`, all of them installed; torch's own take our model alone.
    """

    def __init__(self, model: nn.Module, library: str):
        self.config = model.config
        is_ours = isinstance(model, M2FForUniversalSegmentation)
        self._network = model if is_ours else _Logits(model)
        self._load = partial(_load_ours, _FORMATS[library]) if is_ours else _LOADERS[library]
        self._shape: torch.Size | None = None
        self._run: _Run | None = None

    def load(self, pixel_values: torch.Tensor):
        """Makes the graph for this shape (B, 3, H, W), if it is not there."""
        if pixel_values.shape != self._shape:
            self._run = None  # frees the other one before
            with torch.no_grad(), quiet_exporters():
                self._run = self._load(self._network, pixel_values)
            self._shape = pixel_values.shape

    def __call__(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        """Class logits (B, Q, K + 1) and mask logits (B, Q, H / 4, W / 4), which the next call may overwrite."""
        self.load(pixel_values)
        assert self._run is not None
        classes, masks = map(torch.from_numpy, self._run(pixel_values.numpy()))
        return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)


class _Logits(nn.Module):
    """The network with a tensor as input and two as outputs."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.model(pixel_values=pixel_values)
        return outputs.class_queries_logits, outputs.masks_queries_logits


def _load_openvino(network: nn.Module, pixel_values: torch.Tensor) -> _Run:
    # Traced: as fast as what torch.export gives, and converted in half of the time.
    openvino = _module("openvino")
    traced = torch.jit.trace(network, pixel_values, check_trace=False)
    graph = openvino.convert_model(traced, example_input=pixel_values, input=list(pixel_values.shape))
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # else a processor that multiplies bfloat16 would use it
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()

    def run(pixels: np.ndarray) -> Sequence[np.ndarray]:
        outputs = request.infer([pixels], share_inputs=True, share_outputs=True)
        return outputs[0], outputs[1]

    return run


def _load_onnxruntime(network: nn.Module, pixel_values: torch.Tensor) -> _Run:
    onnxruntime = _module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads would go on spinning for a while, beside the form that runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(network, (pixel_values,), path, dynamo=True, external_data=False, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})


def _load_ours(format: str, network: nn.Module, pixel_values: torch.Tensor) -> _Run:
    assert isinstance(network, M2FForUniversalSegmentation)
    batch, _, height, width = pixel_values.shape
    form = GraphForm(format, (height, width), batch, padding=False)
    program = trace_network(PortableNetwork(network, M2FImageProcessor(), form).eval(), form)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"network{FORMATS[format]}"
        write_graph(program, form, path)
        run = open_graph(path, form)
    return lambda pixels: [x.numpy() for x in run((torch.from_numpy(pixels),))]


_FORMATS = {"openvino": "openvino", "onnxruntime": "onnx", "torch-export": "torch-export", "aoti": "aoti"}
_LOADERS = {"openvino": _load_openvino, "onnxruntime": _load_onnxruntime}


def _module(library: str) -> Any:
    return import_openvino() if library == "openvino" else importlib.import_module(library)
