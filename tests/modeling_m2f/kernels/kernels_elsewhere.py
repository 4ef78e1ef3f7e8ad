"""A plugin of pytest by which kernels' tests run the libraries of another machine, in an emulator: each call sends the
memory that it reads to a program there (other_machine.cpp) and takes it back.

    python -m pytest -p kernels_elsewhere tests/modeling_m2f/kernels/test_winograd.py

M2F_ELSEWHERE is the folder of a target's libraries, their list and the program; M2F_ELSEWHERE_LEVEL the level to take;
M2F_ELSEWHERE_COMMAND what runs the program. What the list lacks counts as not to be had.
"""

import ctypes
import hashlib
import itertools
import json
import os
import shlex
import struct
import subprocess
import sys
import threading
from bisect import bisect_right
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.built_kernels import MANIFEST, Built
from m2f.modeling_m2f.kernels.cpu_compiler import KernelLibrary
from m2f.modeling_m2f.kernels.kernel_policy import KernelUnavailableError

LINE = 64  # bytes, of the cache; GUARD of the program
INTEGER, ADDRESS, REAL_32, REAL_64 = range(4)  # as in the program
FAILURES = {1: "does not load", 2: "lacks the function", 3: "writes beyond its memory"}


class Memory:
    """Where tensors lie whose address was taken since the last call."""

    def __init__(self):
        self._bytes: dict[int, int] = {}

    def add(self, address: int, count: int):
        self._bytes[address] = max(count, self._bytes.get(address, 0))

    def take(self, addresses: list[int]) -> list[tuple[int, int]]:
        """(first, end) of what lies at `addresses`, in ascending order, those that overlap as one."""
        joined: list[tuple[int, int]] = []
        for first in sorted(set(addresses)):
            end = first + self._bytes[first]
            if joined and first < joined[-1][1]:
                joined[-1] = joined[-1][0], max(joined[-1][1], end)
            else:
                joined.append((first, end))
        self._bytes.clear()
        return joined


class Elsewhere:
    """The program with the libraries of one level."""

    def __init__(self, folder: Path, level: str, command: list[str]):
        listed = [Built(**entry) for entry in json.loads((folder / MANIFEST).read_text())["libraries"]]
        self.libraries = [built for built in listed if built.level == level]
        self.calls: Counter[tuple[str, str]] = Counter()
        self.memory = Memory()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def load(self, source: str, defines: dict) -> KernelLibrary:
        """In place of `load_library`."""
        digest = hashlib.sha256(source.encode()).hexdigest()
        for built in self.libraries:
            if (built.source_sha256, built.definitions) == (digest, defines):
                return KernelLibrary(LibraryElsewhere(self, built), f"built ahead ({built.level})", [])
        raise KernelUnavailableError("the other machine's wheel has no such library")

    def call(self, file: str, name: str, arguments: tuple) -> int:
        with self._lock:
            regions, request = self._request(file, name, arguments)
            assert self._process.stdin and self._process.stdout
            self._process.stdin.write(request)
            self._process.stdin.flush()
            reply, result = struct.unpack("<2q", self._read(16, file, name))
            contents = [self._read(end - first, file, name) for first, end, _ in regions]
        if reply:
            raise AssertionError(f"{file} {FAILURES[reply]} ({name})")
        for (first, end, is_ours), content in zip(regions, contents, strict=True):
            # What did not change may be memory that must not be written to.
            if not is_ours and ctypes.string_at(first, end - first) != content:
                ctypes.memmove(first, content, end - first)
        self.calls[file, name] += 1
        return result

    def _read(self, count: int, file: str, name: str) -> bytes:
        content = self._process.stdout.read(count)  # type: ignore[union-attr]
        if len(content) < count:
            raise AssertionError(f"the program ended ({self._process.wait()}) in {name} of {file}")
        return content

    def _request(self, file: str, name: str, arguments: tuple) -> tuple[list[tuple[int, int, bool]], bytes]:
        """(first, end, whether it is a call's own array) of the memory that is sent, and the call."""
        if arguments and isinstance(arguments[-1], ctypes.c_void_p):
            # A function of this process (`c_arguments.threads`): there is none there.
            arguments = (*arguments[:-1], ctypes.c_void_p(None))
        arrays = [x for x in arguments if isinstance(x, ctypes.Array)]
        for array in arrays:
            self.memory.add(ctypes.addressof(array), ctypes.sizeof(array))
        tables = [x for x in arrays if x._type_ is ctypes.c_void_p]
        addresses = [*map(_address, arguments), *itertools.chain(*tables)]
        spans = self.memory.take([address for address in addresses if address])

        def place(address: int) -> tuple[int, int]:
            at = bisect_right(spans, (address, sys.maxsize)) - 1
            return at, address - spans[at][0]

        inner = [(*place(ctypes.addressof(x) + 8 * i), *place(x[i])) for x in tables for i in range(len(x))]
        found = [(ADDRESS, *place(address)) if (address := _address(x)) else _number(x) for x in arguments]
        words = [_packed(len(x)) + x for x in (f"./{file}".encode(), name.encode())]
        words += [_packed(len(spans)), *(_packed(b - a, a % LINE) + ctypes.string_at(a, b - a) for a, b in spans)]
        words += [_packed(len(each), *itertools.chain(*each)) for each in (inner, found)]
        own = {ctypes.addressof(x) for x in arrays}
        return [(a, b, a in own) for a, b in spans], b"".join(words)


def _packed(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}q", *words)


def _address(argument) -> int:
    """Of memory; 0 where it has none."""
    if isinstance(argument, ctypes.Array):
        return ctypes.addressof(argument)
    return argument.value or 0 if isinstance(argument, ctypes.c_void_p) else 0


def _number(argument) -> tuple[int, int, int]:
    if isinstance(argument, (ctypes.c_float, ctypes.c_double)):
        kind = REAL_32 if isinstance(argument, ctypes.c_float) else REAL_64
        return kind, *struct.unpack("<q", struct.pack("<d", argument.value)), 0
    value = argument if isinstance(argument, int) else argument.value
    return INTEGER, value or 0, 0


class LibraryElsewhere:
    """In place of a `ctypes.CDLL`."""

    def __init__(self, elsewhere: Elsewhere, built: Built):
        self._elsewhere, self._built = elsewhere, built

    def __getattr__(self, name: str) -> "FunctionElsewhere":
        if name not in self._built.exports:
            raise AttributeError(name)
        function = FunctionElsewhere(self._elsewhere, self._built.file, name)
        setattr(self, name, function)
        return function


class FunctionElsewhere:
    """In place of a function of ctypes; what it returns is an int64."""

    argtypes: tuple = ()
    restype: type | None = None

    def __init__(self, elsewhere: Elsewhere, file: str, name: str):
        self._elsewhere, self._file, self._name = elsewhere, file, name

    def __call__(self, *arguments) -> int:
        return self._elsewhere.call(self._file, self._name, arguments)


def pytest_configure(config: pytest.Config):
    command = shlex.split(os.environ["M2F_ELSEWHERE_COMMAND"])
    elsewhere = Elsewhere(Path(os.environ["M2F_ELSEWHERE"]), os.environ["M2F_ELSEWHERE_LEVEL"], command)
    patch = pytest.MonkeyPatch()
    patch.setattr("m2f.modeling_m2f.kernels.cpu_source.load_library", elsewhere.load)
    address_of = Tensor.data_ptr

    def data_ptr(tensor: Tensor) -> int:
        address = address_of(tensor)
        span = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        elsewhere.memory.add(address, span * tensor.element_size() if tensor.numel() else 0)
        return address

    def ascontiguousarray(array: np.ndarray) -> np.ndarray:
        """Of the one kernel that takes an array's address."""
        array = np.ascontiguousarray(array)
        elsewhere.memory.add(array.ctypes.data, array.nbytes)
        return array

    patch.setattr(torch.Tensor, "data_ptr", data_ptr)
    patch.setattr("m2f.modeling_m2f.kernels.padded_pixels.np", SimpleNamespace(ascontiguousarray=ascontiguousarray))
    config.stash[_KEY] = elsewhere


_KEY = pytest.StashKey[Elsewhere]()


def pytest_terminal_summary(terminalreporter, config: pytest.Config):
    elsewhere = config.stash[_KEY]
    functions = [(built, name) for built in elsewhere.libraries for name in built.exports]
    idle = [(built, name) for built, name in functions if not elsewhere.calls[built.file, name]]
    files = {file for file, _ in elsewhere.calls}
    terminalreporter.line(
        f"{len(files)} of {len(elsewhere.libraries)} libraries, {len(functions) - len(idle)} of {len(functions)} "
        f"functions ran, in {elsewhere.calls.total()} calls"
    )
    for built, name in idle:
        terminalreporter.line(f"not run: {name} of {built.file} ({built.source}, {built.definitions})")
