"""Whether the operators are to take their portable form: what every inference library has and computes right.

Some of torch's operators have no counterpart in ONNX, a wrong one (TensorRT's GridSample inside deformable attention),
or a slow one (ScatterND, which falls back to the CPU in onnxruntime-gpu). In a portable graph there are none of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

_portable = False


def is_portable() -> bool:
    return _portable


@contextmanager
def portable_graph() -> Iterator[None]:
    """Within it, operators take their portable form; for the time of an export, of one thread."""
    global _portable
    before, _portable = _portable, True
    try:
        yield
    finally:
        _portable = before
