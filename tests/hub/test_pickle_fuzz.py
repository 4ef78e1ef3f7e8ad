"""Pickles that were damaged or put together at random: plain values and arrays come out, or one error; in bounded
memory, with nothing run. All from seeds."""

import collections
import io
import pickle
import pickletools
import random

import numpy as np
import pytest

from m2f.hub.array_pickle import load_array_pickle

COUNT = 6_000  # of each kind
PLAIN = (dict, list, tuple, str, bytes, bytearray, int, float, type(None), np.ndarray)
# Words that a program of random opcodes asks for.
NAMES = [b"numpy\nndarray\n", b"numpy\ndtype\n", b"numpy.core.multiarray\n_reconstruct\n", b"_codecs\nencode\n"]
NAMES += [b"collections\nOrderedDict\n", b"os\nsystem\n", b"builtins\neval\n", b"numpy.core.multiarray\nscalar\n"]


def originals() -> list[bytes]:
    state = collections.OrderedDict(weight=np.arange(6, dtype="f4").reshape(2, 3), bias=np.ones(3, "f8"))
    value = {"model": state, "names": ["a", "b"], "step": 7, "nested": (1.5, None, [True, b"x"]), "of": np.float32(2)}
    return [pickle.dumps(value, protocol) for protocol in range(6)]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """With a few bytes changed, left out or repeated, or parts of itself elsewhere."""
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 8])):
        place, length = rng.randrange(len(result)), rng.randrange(1, 12)
        kind = rng.randrange(4)
        if kind == 0:
            result[place] = rng.randrange(256)
        elif kind == 1:
            del result[place : place + length]
        elif kind == 2:
            result[place:place] = rng.randbytes(length)
        else:
            start = rng.randrange(len(result))
            result[place:place] = result[start : start + length]
        if not result:
            return b"."
    return bytes(result)


def program(rng: random.Random) -> bytes:
    """Opcodes at random, with arguments of the right form."""
    parts = [b"\x80" + bytes([rng.randrange(6)])]
    for _ in range(rng.randrange(1, 40)):
        opcode = rng.choice(pickletools.opcodes)
        parts.append(opcode.code.encode("latin-1") + argument(opcode, rng))
    return b"".join(parts) + b"."


def argument(opcode: pickletools.OpcodeInfo, rng: random.Random) -> bytes:
    if opcode.name in ("GLOBAL", "INST"):
        return rng.choice(NAMES)
    if opcode.arg is None:
        return b""
    length = opcode.arg.n
    if length == pickletools.UP_TO_NEWLINE:
        return rng.choice([b"1", b"01", b"-7", b"1.5", b"'a'", b"9" * 50, b""]) + b"\n"
    if length > 0:
        return rng.choice([bytes([rng.randrange(4)]), rng.randbytes(1), b"\xff"]) * length
    widths = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT8U: 8}
    told = rng.choice([2, 2, 2, 2**31 - 1, 200])
    width = widths.get(length, 4)
    return min(told, 256**width - 1).to_bytes(width, "little") + b"f4"


def check(value, depth: int = 0):
    """Of plain values alone, all the way down to a depth."""
    assert isinstance(value, PLAIN), type(value)
    if isinstance(value, np.ndarray):
        assert value.dtype.kind in "buif", value.dtype
    elif depth < 8 and isinstance(value, dict | list | tuple):
        for entry in [*value, *(value.values() if isinstance(value, dict) else ())]:
            check(entry, depth + 1)


@pytest.mark.parametrize("kind", ["damaged", "random opcodes"])
def test_fuzzed_pickles_are_read_or_refused(kind):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data, results = originals(), collections.Counter()
    for seed in range(COUNT):
        rng = random.Random(seed)
        text = damaged(rng.choice(data), rng) if kind == "damaged" else program(rng)
        try:
            check(load_array_pickle(io.BytesIO(text)))
            results["read"] += 1
        except pickle.UnpicklingError as error:
            assert len(str(error)) < 500, seed
            results["refused"] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}, of {text!r}") from error
    assert min(results["read"], results["refused"]) > COUNT // 100, results
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
