"""Golden panoptic models through an exported graph: the original's predictions, see tests/golden_models.py.

One mini model in one format stands for the others, whose exports take minutes together (`M2F_LONG_TESTS=1` runs them).
"""

import gzip
import json
import os
from importlib.util import find_spec

import pytest
import torch
from golden_models import GOLDEN, golden_model, golden_pixels, load_golden

from m2f.exported.graph_form import FORMATS, GraphForm
from m2f.exported.graph_runtimes import open_graph
from m2f.exported.graph_writers import trace_network, write_graph
from m2f.exported.portable_network import PortableNetwork
from m2f.image_processing.image_processing_m2f import M2FImageProcessor

# The limits, as in tests/parity/test_golden_models.py.
MINI_TOLERANCE, FULL_TOLERANCE = 1e-4, 1e-3
FULL = ["full_r50_coco_panoptic", "full_swin_tiny_coco_panoptic"]
IS_LONG = "M2F_LONG_TESTS" in os.environ
long = pytest.mark.skipif(not IS_LONG, reason="takes minutes; M2F_LONG_TESTS=1 runs it")
HAS_ONNX = all(map(find_spec, ("onnx", "onnxscript", "onnxruntime")))
FORMATS_TRIED = ["torch-export", *(["onnx"] if IS_LONG and HAS_ONNX else [])]


def graph_outputs(model, pixels, formats, folder):
    """Class and mask logits (Q, ...) of one trace in each format; an input that no padding follows."""
    form = GraphForm("onnx", tuple(pixels.shape[-2:]), 1, padding=False)
    program = trace_network(PortableNetwork(model, M2FImageProcessor(), form).eval(), form)
    for format in formats:
        path = folder / f"graph{FORMATS[format]}"
        write_graph(program, GraphForm(format, form.size, 1, padding=False), path)
        classes, masks = open_graph(path, GraphForm(format, form.size, 1, padding=False))([pixels])
        yield format, classes[0], masks[0]


def close(actual, expected, tolerance, what):
    difference = (actual - torch.from_numpy(expected)).abs().max().item()
    assert difference <= tolerance, (what, difference)


@pytest.mark.parametrize("name", [pytest.param("mini_r18", marks=long), "mini_swin"])
def test_mini_models(name, tmp_path):
    golden, meta = load_golden(name)
    model = golden_model(name, meta["state_dict"])
    for format, classes, masks in graph_outputs(model, golden_pixels(golden, meta), FORMATS_TRIED, tmp_path):
        close(classes, golden["pred_logits"], MINI_TOLERANCE, format)
        close(masks, golden["pred_masks"], MINI_TOLERANCE, format)


@long
@pytest.mark.parametrize("name", FULL)
def test_full_models(name, tmp_path):
    golden, meta = load_golden(name)
    keys = json.loads(gzip.decompress((GOLDEN / "state_dict_keys.json.gz").read_bytes()))
    model = golden_model(name, keys["architectures"][keys["configs"][meta["config"]]])
    for format, classes, masks in graph_outputs(model, golden_pixels(golden, meta), FORMATS_TRIED, tmp_path):
        close(classes, golden["pred_logits"], FULL_TOLERANCE, format)
        close(masks[::10, ::4, ::4], golden["pred_masks_every_10th_query_stride4"], FULL_TOLERANCE, format)
