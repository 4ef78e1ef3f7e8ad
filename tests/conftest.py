import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Folders of helpers that tests of other folders import too.
for folder in ("modeling_m2f/kernels", "modeling_m2f", ""):
    sys.path.insert(0, str(Path(__file__).parent / folder))

# The marks of transformers' common tests, which its own conftest.py declares.
TRANSFORMERS_MARKS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "is_pipeline_test",
    "slow",
    "torch_compile_test",
)


def pytest_configure(config):
    for mark in TRANSFORMERS_MARKS:
        config.addinivalue_line("markers", f"{mark}: used by transformers' common tests")


@pytest.fixture(autouse=True)
def nothing_left_in_accelerate() -> Iterator[None]:
    """Accelerate keeps device and precision for a whole process, in which the tests of other files come next."""
    yield
    if "accelerate.state" in sys.modules:
        state = sys.modules["accelerate.state"]
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()
