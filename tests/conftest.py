import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers beside this file

# The marks of transformers' common tests, which its own conftest.py declares.
TRANSFORMERS_MARKS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "slow",
    "torch_compile_test",
)


def pytest_configure(config):
    for mark in TRANSFORMERS_MARKS:
        config.addinivalue_line("markers", f"{mark}: used by transformers' common tests")
