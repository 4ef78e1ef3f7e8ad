"""OpenVINO's graphs with weights of 8 bits, by NNCF; they compute in float."""

import contextlib
import importlib
import io
import logging
from typing import Any

from m2f.exported.graph_runtimes import import_openvino


def compress_weights(graph: Any) -> Any:
    """An openvino.Model whose products have weights of 8 bits, with a scale for each row."""
    import_openvino()  # without what would report its use, which NNCF imports too
    nncf = importlib.import_module("nncf")
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.compress_weights(graph)
