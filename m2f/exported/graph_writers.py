"""From the network to the file of a format."""

import importlib
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from m2f.exported.graph_compression import compress_weights
from m2f.exported.graph_form import LARGEST_BATCH, LARGEST_EDGE, LEAST_EDGE, SIZE_DIVISOR, GraphForm
from m2f.exported.graph_runtimes import import_openvino
from m2f.modeling_m2f.kernels.portable_graph import portable_graph

OPSET = 18
# Of a dynamic graph's example: each number another one, because an exporter takes equal ones for the same.
_EXAMPLE_SIZE, _EXAMPLE_BATCH = (128, 160), 2
_FOLDS = 2  # some operators have a constant input after the first
_FEWEST_HALVED = 1024  # numbers of a weight from which on 16 bits are worth a Cast


def trace_network(network: nn.Module, form: GraphForm) -> ExportedProgram:
    """The network as a program of torch's operators.

    Raises:
        ValueError: it cannot be had with the dynamic sizes of `form`; the message has torch's reason.
    """
    inputs = example_inputs(form, getattr(network, "channels", 3))
    with torch.no_grad(), portable_graph(), quiet_exporters(), _without_stack_traces():
        try:
            return torch.export.export(network, inputs, dynamic_shapes=_dynamic_shapes(form))
        except (torch._dynamo.exc.UserError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"the network cannot be exported with {_sizes_in_words(form)}: {reason}") from error


def example_inputs(form: GraphForm, channels: int = 3) -> tuple[Tensor, ...]:
    """Zeros of a size that the graph takes, with `sizes` where it takes them."""
    size, batch = form.size or _EXAMPLE_SIZE, form.batch or _EXAMPLE_BATCH
    pixel_values = torch.zeros(batch, channels, *size)
    return (pixel_values, torch.tensor([size] * batch)) if form.padding else (pixel_values,)


def _dynamic_shapes(form: GraphForm) -> tuple[dict[int, Any], ...]:
    pixels: dict[int, Any] = {}
    sizes: dict[int, Any] = {}
    if form.batch is None:
        batch = Dim("batch", min=1, max=LARGEST_BATCH)
        pixels[0], sizes[0] = batch, batch
    if form.size is None:
        least, most = LEAST_EDGE // SIZE_DIVISOR, LARGEST_EDGE // SIZE_DIVISOR
        pixels[2] = SIZE_DIVISOR * Dim("height", min=least, max=most)
        pixels[3] = SIZE_DIVISOR * Dim("width", min=least, max=most)
    return (pixels, sizes) if form.padding else (pixels,)


def _sizes_in_words(form: GraphForm) -> str:
    size = "any size" if form.size is None else f"the size {form.size[0]}x{form.size[1]}"
    return f"{size} and {'any batch' if form.batch is None else f'a batch of {form.batch}'}"


def write_graph(program: ExportedProgram, form: GraphForm, path: Path):
    """Writes the file of a format; an OpenVINO graph's weights beside it."""
    with torch.no_grad(), quiet_exporters(), _without_stack_traces():
        _WRITERS[form.format](program, form, path)


def _write_onnx(program: ExportedProgram, form: GraphForm, path: Path):
    names: dict[str, Any] = {"input_names": list(form.inputs), "output_names": list(form.outputs)}
    settings: dict[str, Any] = {"dynamo": True, "external_data": False, "verbose": False, "optimize": False}
    made = torch.onnx.export(program, opset_version=OPSET, **settings, **names)
    assert made is not None  # without a path
    _fold_constants(made.model)
    model = made.model_proto
    _check_operators(Counter(node.op_type for node in model.graph.node), {node.domain for node in model.graph.node})
    if form.dtype == "float16":
        _halve_weights(model)
    path.write_bytes(model.SerializeToString())


def _fold_constants(model: Any):
    """What the exporter's own `optimize` does, but for rewriting patterns, which libraries do when they load a graph:
    one of its patterns has two outputs, and walks the whole graph for each node, which took minutes of each export."""
    passes = importlib.import_module("onnx_ir.passes.common")
    fold = importlib.import_module("onnxscript.optimizer").fold_constants
    passes.InlinePass()(model)
    for _ in range(_FOLDS):
        fold(model, onnx_shape_inference=True)
        passes.RemoveUnusedNodesPass()(model)
    for clean in (
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        clean(model)


def _write_openvino(program: ExportedProgram, form: GraphForm, path: Path):
    openvino = import_openvino()
    graph = openvino.convert_model(program)
    for found, names in ((graph.inputs, form.inputs), (graph.outputs, form.outputs)):
        for port, name in zip(found, names, strict=True):
            port.get_tensor().set_names({name})
    if form.compress == "int8-weights":
        graph = compress_weights(graph)
    openvino.save_model(graph, path, compress_to_fp16=form.dtype == "float16")


def _write_torch_export(program: ExportedProgram, form: GraphForm, path: Path):
    torch.export.save(program, path)


def _write_aoti(program: ExportedProgram, form: GraphForm, path: Path):
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))


_WRITERS: dict[str, Callable[[ExportedProgram, GraphForm, Path], None]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torch-export": _write_torch_export,
    "aoti": _write_aoti,
}

# What graphs are made of: no GridSample, which TensorRT computes wrongly inside deformable attention, no ScatterND,
# which onnxruntime has on no GPU, no If, Loop or Scan, and nothing of another domain than ONNX's own.
ALLOWED_OPERATORS = frozenset(
    "Abs Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv "
    "ConvTranspose Cos CumSum Div Einsum Equal Erf Exp Expand Flatten Floor Gather GatherElements Gelu Gemm Greater "
    "GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization IsInf IsNaN "
    "LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Min Mod Mul Neg Not Or Pad Pow "
    "Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize Round Shape Sigmoid "
    "Sin Size Slice Softmax Split Sqrt Squeeze Sub Tanh Tile TopK Transpose Trilu Unsqueeze Where Xor".split()
)


def _check_operators(counts: Counter[str], domains: set[str]):
    if foreign := sorted(set(counts) - ALLOWED_OPERATORS):
        raise ValueError(f"the graph would have the operators {', '.join(foreign)}, which not every library computes")
    if domains - {"", "ai.onnx"}:
        raise ValueError(f"the graph would need operators of {', '.join(sorted(domains))}, which are not ONNX's own")


def _halve_weights(model: Any):
    """Large float32 weights as float16, and a Cast behind each: arithmetic stays in float32, because attention and
    sampling locations overflow or move by whole cells in float16."""
    onnx = importlib.import_module("onnx")
    casts = []
    for tensor in model.graph.initializer:
        numbers = onnx.numpy_helper.to_array(tensor)
        if tensor.data_type != onnx.TensorProto.FLOAT or numbers.size < _FEWEST_HALVED:
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(numbers.astype("float16"), f"{name}_float16"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@contextmanager
def _without_stack_traces() -> Iterator[None]:
    """Where in the source each operator was called would be written into the file, with the folders of this machine;
    and to find it out takes a good part of a trace's time."""
    config: Any = torch.fx.config
    before = getattr(config, "do_not_emit_stack_traces", False)  # torch before 2.13 may not have it
    config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = before


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Without what exporters say about a network that they export well."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
