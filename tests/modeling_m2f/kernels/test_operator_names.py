"""An operator with a kernel has one name: of its file, of its source in csrc, and of its tests."""

from pathlib import Path

from m2f.modeling_m2f.kernels.kernel_sources import CSRC

TESTS = Path(__file__).parent
ENDINGS = {".cpp": "_cpu.cpp", ".cu": "_cuda.cu"}


def nameless(csrc: Path, kernels: Path, tests: Path) -> list[str]:
    """Sources whose operator's file or test is missing, or whose name has no device."""
    missing = []
    for source in csrc.iterdir():
        ending = ENDINGS.get(source.suffix)
        if ending is None:
            continue
        operator = source.name.removesuffix(ending)
        wanted = (csrc / f"{operator}{ending}", kernels / f"{operator}.py", tests / f"test_{operator}.py")
        if not all(path.is_file() for path in wanted):
            missing.append(source.name)
    return missing


def test_every_source_has_its_operator_and_its_test():
    assert nameless(CSRC, CSRC.parent, TESTS) == []


def test_a_source_of_another_name_is_found(tmp_path):
    for name in ("x_cpu.cpp", "y_cpu.cpp", "z.cpp", "x_cuda.cu", "common_part.h"):
        (tmp_path / name).touch()
    for name in ("x.py", "y.py", "z.py", "test_x.py", "test_z.py"):
        (tmp_path / name).touch()
    assert sorted(nameless(tmp_path, tmp_path, tmp_path)) == ["y_cpu.cpp", "z.cpp"]
