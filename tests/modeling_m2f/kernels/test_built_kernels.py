"""Which library that was built ahead is taken, and why one is passed over."""

import ctypes
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from compiler_there import needs_compiler

from m2f.modeling_m2f.kernels.built_kernels import MANIFEST, _listed, find_built
from m2f.modeling_m2f.kernels.cpu_compiler import load_library
from m2f.modeling_m2f.kernels.kernel_policy import KernelUnavailableError

SOURCE = 'extern "C" int answer() { return ANSWER; }\n// of the tests of what is built ahead\n'
LEVELS = ("best", "middle", "least")
PLACE = "m2f.modeling_m2f.kernels.built_kernels"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The package's folder, of a machine that runs all but the best level."""
    monkeypatch.setattr(f"{PLACE}.BUILT", tmp_path / "built")
    monkeypatch.setattr(f"{PLACE}.machine_target", lambda: "here")
    monkeypatch.setattr(f"{PLACE}.processor_levels", lambda: LEVELS[1:])
    monkeypatch.setenv("M2F_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("M2F_KERNELS", raising=False)
    monkeypatch.setattr("m2f.modeling_m2f.kernels.cpu_compiler._libraries", {})
    _listed.cache_clear()
    (tmp_path / "built").mkdir()
    yield tmp_path / "built"
    _listed.cache_clear()


def entry(folder: Path, level: str, **changes) -> dict:
    """Of the list; the file is a copy of a library of this machine that Python has, the C library's math."""
    file = folder / f"{level}.so"
    shutil.copy(math_library(), file)
    usual = {
        "file": file.name,
        "source": "answer_cpu.cpp",
        "source_sha256": hashlib.sha256(SOURCE.encode()).hexdigest(),
        "definitions": {"ANSWER": 42},
        "target": "here",
        "level": level,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "exports": ["cos", "sin"],
    }
    return usual | changes


def math_library() -> str:
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/libm.so" in line or "/libm-" in line:
            return line.split()[-1]
    pytest.skip("this Python has loaded no libm")


def write(folder: Path, *entries: dict):
    (folder / MANIFEST).write_text(json.dumps({"libraries": entries}))


def test_the_best_level_that_the_machine_has(folder):
    write(folder, *(entry(folder, level) for level in LEVELS))
    found = find_built(SOURCE, {"ANSWER": 42})
    assert isinstance(found.library, ctypes.CDLL) and (found.level, found.reasons) == ("middle", [])
    write(folder, entry(folder, "least"), entry(folder, "best"))
    _listed.cache_clear()
    assert find_built(SOURCE, {"ANSWER": 42}).level == "least"


@pytest.mark.parametrize(
    "changes",
    [
        {"source_sha256": hashlib.sha256(b"another version").hexdigest()},
        {"definitions": {"ANSWER": 43}},
        {"target": "there"},
        {"level": "best"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_was_built_for_something_else_is_not_used(folder, changes):
    write(folder, entry(folder, "middle") | changes)
    assert find_built(SOURCE, {"ANSWER": 42}) == (None, "", [])


def test_a_file_of_another_content_is_passed_over(folder):
    write(folder, entry(folder, "middle"), entry(folder, "least"))
    with (folder / "middle.so").open("ab") as file:
        file.write(b"\0")
    found = find_built(SOURCE, {"ANSWER": 42})
    assert found.level == "least" and len(found.reasons) == 1
    assert "middle.so" in found.reasons[0] and "SHA-256" in found.reasons[0]


def test_a_file_that_does_not_load_or_is_not_there_is_passed_over(folder):
    (folder / "text.so").write_bytes(b"no library")
    broken = {"file": "text.so", "sha256": hashlib.sha256(b"no library").hexdigest()}
    write(folder, entry(folder, "middle", **broken), entry(folder, "least", file="gone.so"))
    found = find_built(SOURCE, {"ANSWER": 42})
    assert found.library is None and all("cannot be loaded" in reason for reason in found.reasons)
    assert [reason.split()[0] for reason in found.reasons] == ["text.so", "gone.so"]


def test_a_library_without_the_functions_is_passed_over(folder):
    write(folder, entry(folder, "middle", exports=["cos", "m2f_answer"]))
    assert "lacks m2f_answer" in find_built(SOURCE, {"ANSWER": 42}).reasons[0]


@pytest.mark.parametrize("text", ["{", "{}", '{"libraries": [{"file": "x"}]}', '{"libraries": 3}'])
def test_a_damaged_list_is_a_reason(folder, text):
    (folder / MANIFEST).write_text(text)
    found = find_built(SOURCE, {"ANSWER": 42})
    assert found.library is None and "damaged" in found.reasons[0]


def test_built_ahead_comes_before_the_cache_and_the_compiler(folder, monkeypatch):
    write(folder, entry(folder, "middle"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = load_library(SOURCE, {"ANSWER": 42})
    assert (found.origin, found.reasons) == ("built ahead (middle)", [])
    assert not hasattr(found.functions, "answer")  # the copy of libm
    with pytest.raises(KernelUnavailableError, match="no-such-compiler"):
        load_library(SOURCE, {"ANSWER": 43})


@needs_compiler
def test_what_is_passed_over_is_compiled_and_said(folder, monkeypatch):
    write(folder, entry(folder, "middle", sha256="0"))
    found = load_library(SOURCE, {"ANSWER": 42})
    assert found.functions.answer() == 42 and found.origin == "compiled" and "SHA-256" in found.reasons[0]
    monkeypatch.setattr("m2f.modeling_m2f.kernels.cpu_compiler._libraries", {})
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(KernelUnavailableError, match="SHA-256.*no-such-compiler"):
        load_library(SOURCE, {"ANSWER": 42})


def test_native_passes_over_what_was_built_ahead(folder, monkeypatch):
    write(folder, entry(folder, "middle"))
    assert load_library(SOURCE, {"ANSWER": 42}).origin == "built ahead (middle)"
    monkeypatch.setenv("M2F_KERNELS", "native")
    found = load_library(SOURCE, {"ANSWER": 42})
    assert found.functions.answer() == 42 and (found.origin, found.reasons) == ("compiled", [])
