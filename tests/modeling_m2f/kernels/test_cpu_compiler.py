import pytest
from compiler_there import needs_compiler

from m2f.modeling_m2f.kernels.cpu_compiler import find_compiler, load_library
from m2f.modeling_m2f.kernels.kernel_policy import KernelUnavailableError
from m2f.modeling_m2f.kernels.kernel_sources import read_source
from m2f.modeling_m2f.kernels.zig_compiler import find_zig

pytest_plugins = ("kernel_fixtures",)
PLACE = "m2f.modeling_m2f.kernels.cpu_compiler"

SOURCE = 'extern "C" int answer() { return ANSWER; }\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("M2F_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@needs_compiler
def test_a_source_is_compiled_and_called(folder):
    assert load_library(SOURCE, {"ANSWER": 42}).functions.answer() == 42
    assert load_library(SOURCE, {"ANSWER": 43}).functions.answer() == 43
    assert len(list(folder.iterdir())) == 2


@needs_compiler
def test_what_the_compiler_says_is_in_the_error(folder):
    find_compiler()
    with pytest.raises(KernelUnavailableError, match="nonsense"):
        load_library("nonsense;\n", {})


def test_a_compiler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler --flag")
    with pytest.raises(KernelUnavailableError, match="no-such-compiler"):
        find_compiler()
    monkeypatch.setenv("CXX", "c++ 'half")
    with pytest.raises(KernelUnavailableError, match="CXX is .*, which is no command: No closing quotation"):
        find_compiler()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(f"{PLACE}.find_zig", lambda: [])
    with pytest.raises(KernelUnavailableError, match=r"no C\+\+ compiler.*m2f\[compiler\].*CXX"):
        find_compiler()


def test_zig_comes_after_all_others(monkeypatch):
    monkeypatch.setattr(f"{PLACE}.find_zig", lambda: ["/packages/ziglang/zig", "c++"])
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name == "clang++" else None)
    assert find_compiler() == ["/bin/clang++"]
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert find_compiler() == ["/packages/ziglang/zig", "c++"]
    monkeypatch.setenv("CXX", "no-such-compiler")  # asked for, so nothing takes its place
    with pytest.raises(KernelUnavailableError, match="no-such-compiler"):
        find_compiler()


@pytest.mark.skipif(not find_zig(), reason="the package ziglang is not installed")
def test_zig_compiles_for_this_processor(folder, monkeypatch):
    monkeypatch.setenv("CXX", "")
    monkeypatch.setattr("shutil.which", lambda name: None)
    source = read_source("masked_attention_cpu.cpp")
    functions = load_library(source, {"M2F_DTYPE": "float", "M2F_HEAD_DIM": 3}).functions
    assert hasattr(functions, "m2f_masked_attention") and not hasattr(functions, "_Znwm")


def test_words_of_the_environment_reach_no_shell(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", f"c++ ; touch {tmp_path}/owned")
    with pytest.raises(KernelUnavailableError):
        load_library(SOURCE, {"ANSWER": 44})
    assert not (tmp_path / "owned").exists()


@needs_compiler
def test_a_full_disk_is_no_library_until_there_is_room(folder):
    find_compiler()
    limits = pytest.importorskip("resource")
    former = limits.getrlimit(limits.RLIMIT_FSIZE)
    for room in (0, 1000):  # for nothing, for the source but not for the library
        limits.setrlimit(limits.RLIMIT_FSIZE, (room, former[1]))
        try:
            with pytest.raises(KernelUnavailableError):
                load_library(SOURCE, {"ANSWER": 45})
        finally:
            limits.setrlimit(limits.RLIMIT_FSIZE, former)
        assert not list(folder.iterdir())
    assert load_library(SOURCE, {"ANSWER": 45}).functions.answer() == 45
