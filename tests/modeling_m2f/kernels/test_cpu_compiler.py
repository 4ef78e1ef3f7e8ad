import pytest

from m2f.modeling_m2f.kernels.cpu_compiler import find_compiler, load_library
from m2f.modeling_m2f.kernels.kernel_policy import KernelUnavailableError

SOURCE = 'extern "C" int answer() { return ANSWER; }\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("M2F_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_source_is_compiled_and_called(folder):
    assert load_library(SOURCE, {"ANSWER": 42}).answer() == 42
    assert load_library(SOURCE, {"ANSWER": 43}).answer() == 43
    assert len(list(folder.iterdir())) == 2


def test_what_the_compiler_says_is_in_the_error(folder):
    with pytest.raises(KernelUnavailableError, match="nonsense"):
        load_library("nonsense;\n", {})


def test_a_compiler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler --flag")
    with pytest.raises(KernelUnavailableError, match="no-such-compiler"):
        find_compiler()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(KernelUnavailableError, match="no C\\+\\+ compiler.*CXX"):
        find_compiler()


def test_words_of_the_environment_reach_no_shell(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", f"c++ ; touch {tmp_path}/owned")
    with pytest.raises(KernelUnavailableError):
        load_library(SOURCE, {"ANSWER": 44})
    assert not (tmp_path / "owned").exists()
