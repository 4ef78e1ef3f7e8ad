"""Weights of 8 bits in OpenVINO's graphs."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from m2f.exported.graph_compression import compress_weights
from m2f.exported.graph_runtimes import import_openvino

pytestmark = pytest.mark.skipif(not (find_spec("nncf") and find_spec("openvino")), reason="nncf or openvino missing")


def test_weights_are_small_and_results_nearly_the_same(capsys):
    openvino = import_openvino()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).eval()
    x = torch.randn(1, 10, 64)
    with torch.no_grad():
        graph = compress_weights(openvino.convert_model(torch.export.export(network, (x,))))
        wanted = network(x).numpy()
    numbers = [op.get_data() for op in graph.get_ops() if op.get_type_name() == "Constant"]
    assert sorted(n.size for n in numbers if n.dtype in (np.uint8, np.int8) and n.size > 1000) == [64 * 128] * 2
    assert not [n for n in numbers if n.dtype == np.float32 and n.size > 1000]
    (found,) = openvino.compile_model(graph, "CPU")([x.numpy()]).values()
    assert 0 < np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    assert not capsys.readouterr().out  # no progress bars
