"""Whether this machine compiles kernels, for tests that have nothing to say where it does not."""

import pytest

from m2f.modeling_m2f.kernels.cpu_compiler import find_compiler
from m2f.modeling_m2f.kernels.kernel_policy import KernelUnavailableError


def has_compiler() -> bool:
    try:
        return bool(find_compiler())
    except KernelUnavailableError:
        return False


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler")
