"""Graphs of other libraries, where these are installed: they give what the model gives."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import small_model
from torch.nn.functional import pad

from m2f.exported.exported_network import ExportedNetwork
from m2f.exported.graph_description import describe, write_description
from m2f.exported.graph_export import export_model, processor_for
from m2f.exported.graph_form import FORMATS, MADE_WITH, RUN_WITH, GraphForm
from m2f.exported.graph_writers import ALLOWED_OPERATORS, trace_network, write_graph
from m2f.exported.portable_network import PortableNetwork
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.inference.segmenter import Segmenter
from m2f.validation.export_check import check_export

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZE = (64, 96)


def missing_packages(format: str) -> list[str]:
    return [name for name in (*MADE_WITH[format], *RUN_WITH[format]) if not find_spec(name)]


def needs(format: str):
    missing = missing_packages(format)
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


@pytest.fixture(scope="module")
def model():
    return small_model("resnet", num_queries=12, task="panoptic", thing_label_ids=[0, 1])


@pytest.fixture(scope="module")
def processor():
    size = {"max_height": SIZE[0], "max_width": SIZE[1]}
    return M2FImageProcessor(size=size, thing_label_ids=[0, 1], panoptic_threshold=0.2)


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    arrays = [generator.integers(0, 255, (*size, 3), dtype=np.uint8) for size in ((8, 5), (6, 11))]
    return [Image.fromarray(array).resize((array.shape[1] * 12, array.shape[0] * 12)) for array in arrays]


@pytest.fixture(scope="module")
def graphs(model, processor, tmp_path_factory):
    """Of any batch: format -> file, in all formats that can be written here, of one trace."""
    folder = tmp_path_factory.mktemp("graphs")
    form = GraphForm("onnx", SIZE)
    fitted = processor_for(processor, form)
    program = trace_network(PortableNetwork(model, fitted, form).eval(), form)
    found = {}
    for format in ("torch-export", "onnx", "openvino"):
        if missing_packages(format):
            continue
        form, path = GraphForm(format, SIZE), folder / format / f"model{FORMATS[format]}"
        path.parent.mkdir()
        write_graph(program, form, path)
        write_description(describe(form, model.config, fitted, "small", None), path)
        found[format] = path
    return found


def check_batches(network, model):
    torch.manual_seed(0)
    for batch, height, width in ((1, 64, 96), (3, 64, 96), (2, 56, 40)):
        pixel_values = torch.randn(batch, 3, height, width)
        mask = torch.ones(batch, height, width)
        mask[-1, height - 7 :], mask[-1, :, width - 3 :] = 0, 0
        margins = (0, SIZE[1] - width, 0, SIZE[0] - height)  # the canvas is seen by the backbone
        with torch.no_grad():
            wanted = model(pixel_values=pad(pixel_values, margins), pixel_mask=pad(mask, margins))
            found = network(pixel_values, mask)
        masks = wanted.masks_queries_logits[:, :, : -(-height // 32) * 8, : -(-width // 32) * 8]
        torch.testing.assert_close(found.masks_queries_logits, masks, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.class_queries_logits, wanted.class_queries_logits, rtol=1e-3, atol=1e-3)
        assert (found.valid_sizes == wanted.valid_sizes).all()


@needs("onnx")
def test_onnx(graphs, model):
    import onnx

    check_batches(ExportedNetwork(graphs["onnx"]), model)
    graph = onnx.load(graphs["onnx"])
    onnx.checker.check_model(graph)
    assert {node.op_type for node in graph.graph.node} <= ALLOWED_OPERATORS
    assert not {"GridSample", "ScatterND", "ScatterElements", "GatherND", "If", "Loop"} & ALLOWED_OPERATORS
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 18)]
    assert not graph.functions
    assert str(Path(__file__).parents[2]).encode() not in graphs["onnx"].read_bytes()  # no paths of this machine


@needs("onnx")
def test_files_are_used_by_a_process_without_m2f(graphs, images, tmp_path):
    """The example without torch and transformers, which must not even be imported; then torch's own format."""
    images[0].save(tmp_path / "a.png")
    torch.manual_seed(0)
    pixel_values, sizes = torch.randn(2, 3, *SIZE), torch.tensor([SIZE, (40, 90)])
    torch.save([pixel_values, sizes], tmp_path / "inputs.pt")
    packages = [path for path in sys.path if "site-packages" in path]
    words = [graphs["onnx"], graphs["torch-export"], tmp_path, EXAMPLES, *packages]
    # -I -S: nothing of this environment is on the path but what is given.
    command = [sys.executable, "-I", "-S", Path(__file__).with_name("elsewhere_process.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = Segmenter.from_pretrained(graphs["onnx"])(tmp_path / "a.png")
    ids = np.asarray(Image.open(tmp_path / "ids.png"))
    assert result.segments and (ids == result.id_map).mean() > 0.999
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [(int(number), label) for number, label, _ in lines] == [(s.id, s.label) for s in result.segments]
    wanted = ExportedNetwork(graphs["onnx"])._run((pixel_values, sizes))
    for x, y in zip(torch.load(tmp_path / "outputs.pt"), wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3)


@needs("openvino")
def test_openvino(graphs, model):
    check_batches(ExportedNetwork(graphs["openvino"]), model)


@pytest.mark.skipif("M2F_LONG_TESTS" not in os.environ, reason="compiles for minutes; M2F_LONG_TESTS=1 runs it")
def test_a_compiled_package_is_used_by_a_process_without_m2f(model, processor, tmp_path):
    form = GraphForm("aoti", SIZE, 2)
    export_model(model, processor, tmp_path / "model.pt2", form, checkpoint="small")
    check_batches(ExportedNetwork(tmp_path / "model.pt2"), model)
    inputs = [torch.randn(2, 3, *SIZE), torch.tensor([SIZE, (40, 90)])]
    torch.save(inputs, tmp_path / "inputs.pt")
    code = (
        "import sys, torch; from torch._inductor import aoti_load_package as load;"
        "assert 'm2f' not in sys.modules; torch.save(load('model.pt2')(*torch.load('inputs.pt')), 'outputs.pt')"
    )
    subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=True)
    wanted = ExportedNetwork(tmp_path / "model.pt2")._run(inputs)
    for x, y in zip(torch.load(tmp_path / "outputs.pt"), wanted, strict=True):
        torch.testing.assert_close(x, y)


@needs("openvino")
@pytest.mark.parametrize("post", ["semantic", "instance", "panoptic"])
def test_finished_results(post, model, processor, images, tmp_path):
    form = GraphForm("openvino", SIZE, 1, "float16" if post == "semantic" else "float32", post)
    export_model(model, processor, tmp_path / "model.xml", form, checkpoint="small")
    assert check_export(tmp_path / "model.xml", model, images).pixels > 0.999
    with pytest.raises(ValueError, match="gives finished results"):
        ExportedNetwork(tmp_path / "model.xml")


@pytest.mark.skipif("M2F_LONG_TESTS" not in os.environ, reason="takes minutes; M2F_LONG_TESTS=1 runs it")
@pytest.mark.parametrize("backbone", ["swin", "convnext", "resnet"])
def test_any_size(backbone, processor, tmp_path):
    """In torch's form, which the others are made of."""
    model = small_model(backbone, encoder_layers=1, decoder_layers=2)
    export_model(model, processor, tmp_path / "model.pt2", GraphForm("torch-export"), checkpoint="small")
    network = ExportedNetwork(tmp_path / "model.pt2")
    for size in ((1, 64, 96), (3, 160, 64)):
        pixel_values = torch.randn(size[0], 3, *size[1:])
        mask = torch.ones(size)
        mask[-1, -9:] = 0
        with torch.no_grad():
            found, wanted = network(pixel_values, mask), model(pixel_values=pixel_values, pixel_mask=mask)
        torch.testing.assert_close(found.masks_queries_logits, wanted.masks_queries_logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.class_queries_logits, wanted.class_queries_logits, rtol=1e-3, atol=1e-3)


def test_sizes_that_a_backbone_does_not_take(processor, tmp_path):
    fields = {"model_type": "swin", "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
    model = small_model("swin", backbone_config={**fields, "use_absolute_embeddings": True, "image_size": 64})
    for form, wanted in ((GraphForm("torch-export"), "dynamic"), (GraphForm("torch-export", (32, 64)), "32x64")):
        with pytest.raises(ValueError, match=f"64x64 pixels alone, and the size {wanted} is asked for; give --size"):
            export_model(model, processor, tmp_path / "model.pt2", form, checkpoint="small")
    assert not list(tmp_path.iterdir())
