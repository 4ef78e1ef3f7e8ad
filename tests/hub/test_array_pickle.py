"""The pickle reader: all arrays of numbers, and nothing that runs code.

The attacks are calls and opcodes that Python's own `pickle.load` would carry out.
"""

import collections
import io
import os
import pickle
import struct
import subprocess

import numpy as np
import pytest

from m2f.hub.array_pickle import load_array_pickle

PROTOCOLS = range(6)


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def load(data: bytes):
    return load_array_pickle(io.BytesIO(data))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ">f4", ">i8"])
def test_arrays_of_numbers_are_read(protocol, dtype):
    grid = np.arange(6).reshape(2, 3).astype(dtype)
    arrays = {"rows": grid, "columns": np.asfortranarray(grid), "view": grid[:, ::2], "empty": grid[:0]}
    arrays["point"] = grid[1, 2]
    loaded = load(pickle.dumps({"model": arrays}, protocol))["model"]
    for name, array in arrays.items():
        assert loaded[name].dtype == np.dtype(dtype).newbyteorder("=")
        assert loaded[name].shape == array.shape
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].flags.writeable


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_are_read(protocol):
    values = {"a": [1, 2.5, None, True], "b": ("text", b"bytes", b""), "c": collections.OrderedDict(x={"y": 1})}
    assert load(pickle.dumps(values, protocol)) == values


@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"])
def test_names_of_both_numpy_generations_are_known(module):
    array = np.arange(3.0, dtype=np.float32)
    data = pickle.dumps(array, 0)
    assert b"numpy._core" in data or b"numpy.core" in data
    renamed = data.replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", module)
    np.testing.assert_array_equal(load(renamed), array)


def test_arrays_pickled_by_python_2_are_read():
    """Their bytes are `str`, opcode U; written by hand after pickletools' description of the opcodes."""
    array = np.array([1.5, -2.0], dtype="<f4")
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    data = b"\x80\x02" + empty + b"(K\x01K\x02\x85" + dtype + b"\x89U\x08" + array.tobytes() + b"tb."
    np.testing.assert_array_equal(load(data), array)


def attacks(target: str) -> dict[str, object]:
    command = f"touch {target}"
    reconstruct = getattr(np, "_core", np).multiarray._reconstruct
    objects = np.empty(1, dtype=object)
    objects[0] = Call(os.system, command)
    return {
        "os.system": Call(os.system, command),
        "nested": {"model": {"weight": np.ones(2), "x": [(Call(os.system, command),)]}},
        "as a key": {Call(os.system, command): np.ones(2)},
        "subprocess": Call(subprocess.Popen, ["touch", target]),
        "builtins.eval": Call(eval, f"open({target!r}, 'w')"),
        "builtins.exec": Call(exec, f"open({target!r}, 'w')"),
        "builtins.open": Call(open, target, "w"),
        "builtins.getattr": Call(getattr, "text", "upper"),
        "reconstruct as another class": Call(reconstruct, subprocess.Popen, (0,), b"b"),
        "reconstruct as a file": Call(reconstruct, np.memmap, (0,), b"b"),
        "numpy.memmap": Call(np.memmap, target, "u1", "w+", 0, (1,)),
        "numpy.save": Call(np.save, target, 1),
        "objects in an array": objects,
        "objects in a record": np.array([(1, None)], dtype=[("a", "i4"), ("b", object)]),
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", attacks(""))
def test_attack_is_refused_and_not_carried_out(name, protocol, tmp_path):
    target = tmp_path / "written"
    data = pickle.dumps(attacks(str(target))[name], protocol)
    with pytest.raises(pickle.UnpicklingError, match="not a pickle of arrays"):
        load(data)
    assert not target.exists()
    assert not list(tmp_path.iterdir())


WRITING = ("os.system", "nested", "as a key", "builtins.eval", "builtins.exec", "builtins.open", "numpy.memmap")


@pytest.mark.parametrize("name", (*WRITING, "objects in an array"))
def test_attack_is_one(name, tmp_path):
    """Python's own reader carries it out."""
    target = tmp_path / "written"
    pickle.loads(pickle.dumps(attacks(str(target))[name]))
    assert target.exists()


def test_refused_global_is_named():
    with pytest.raises(pickle.UnpicklingError, match="asks for (posix|nt).system, and only NumPy arrays are admitted"):
        load(pickle.dumps(Call(os.system, "true")))
    with pytest.raises(pickle.UnpicklingError, match="dtype 'O8' are not admitted"):
        load(pickle.dumps(np.array([None])))


OPCODES = {
    # collections.OrderedDict by its dotted path to something else
    "dotted name": b"\x80\x04\x8c\x0bcollections\x94\x8c\x07_sys.exit\x94\x93.",
    # attributes of a constructor: BUILD with (None, {"_build": 1}) on numpy.ndarray
    "changed constructor": b"\x80\x02cnumpy\nndarray\nN}U\x06_buildK\x01s\x86b.",
    # NEWOBJ of a constructor
    "new object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    # persistent id, extension registry
    "persistent id": b"\x80\x02U\x01xQ.",
    "extension": b"\x80\x02\x82\x01.",
    # encode("x", "zip"): a codec of the file's choice
    "codec": b"\x80\x02c_codecs\nencode\nU\x01xU\x03zip\x86R.",
    # an array without state
    "no items": b"\x80\x02cnumpy\nndarray\n)R.",
    "out-of-band buffer": b"\x80\x05\x97.",
}


def shared(parts: bytes, levels: int = 60) -> bytes:
    """A tuple of two tuples, which are one, and so on: 2^levels of the parts, in a few bytes for each level."""
    doubled = b"".join(b"q%ch%ch%c\x86" % (n, n, n) for n in range(levels))
    return parts + doubled


BOMBS = {
    "a table of 2^31 places": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "as text": b"Np2147483647\n.",
    "a tuple as key": b"\x80\x02}" + shared(b")") + b"Ns.",
    "tuples as keys": b"\x80\x02}(" + shared(b")") + b"Nu.",
    "a dict of them": b"\x80\x02(" + shared(b")") + b"Nd.",
    "in a set": b"\x80\x04\x8f(" + shared(b")") + b"\x90.",
    "in a frozen set": b"\x80\x04(" + shared(b")") + b"\x91.",
    "as a shape": b"\x80\x02cnumpy.core.numeric\n_frombuffer\n(C\x00cnumpy\ndtype\nU\x02f4\x85R"
    + shared(b")")
    + b"U\x01CtR.",
    "as an order": b"\x80\x02cnumpy.core.numeric\n_frombuffer\n(C\x00N)" + shared(b")") + b"tR.",
    "as an encoding": b"\x80\x02c_codecs\nencode\n(U\x01x" + shared(b")") + b"tR.",
    "bytes beyond the file": b"\x80\x05\x96" + struct.pack("<Q", 2**32) + b"x.",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "a dict in itself": b"\x80\x02}q\x00K\x01h\x00s.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_few_bytes_take_neither_time_nor_memory(name):
    """The hash, the text and the copy of 2^60 tuples, 16 GiB for places, 4 GiB for bytes that are not there."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if "table" in name or "text" in name:
        assert load(BOMBS[name]) is None
    else:
        with pytest.raises(pickle.UnpicklingError, match="not a pickle of arrays"):
            load(BOMBS[name])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_what_is_shared_is_read_once():
    inner = load(b"\x80\x02" + shared(b"K\x07\x85") + b".")
    for _ in range(60):
        assert inner[0] is inner[1]
        inner = inner[0]
    assert inner == (7,)


@pytest.mark.parametrize("name", OPCODES)
def test_crafted_opcodes_are_refused(name):
    with pytest.raises(pickle.UnpicklingError, match="not a pickle of arrays"):
        load(OPCODES[name])


def crafted_array(dtype: bytes, state: bytes, items: bytes) -> bytes:
    """Pickle of an array of shape (1,) with `items`, whose dtype gets the state `state`."""
    kind = b"cnumpy\ndtype\nU" + struct.pack("B", len(dtype)) + dtype + b"K\x00K\x01\x87R(" + state + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01\x85"
    return b"\x80\x02" + array + kind + b"\x89U" + struct.pack("B", len(items)) + items + b"tb."


PLAIN = b"K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"


def test_dtype_cannot_make_pointers_of_bytes():
    """Fields in the state of a dtype can declare raw bytes to be Python objects; NumPy then follows the pointers."""
    assert load(crafted_array(b"f8", PLAIN, struct.pack("<d", 2.5))) == 2.5  # the form is right
    inner = b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R"
    fields = b"K\x03U\x01|NU\x01a\x85}U\x01a" + inner + b"K\x00\x86sK\x08K\x01K\x00"  # names ("a",), at offset 0
    with pytest.raises(pickle.UnpicklingError, match="structured dtypes are not admitted"):
        load(crafted_array(b"f8", fields, b"\x01" * 8))
    with pytest.raises(pickle.UnpicklingError, match="dtype 'O8' are not admitted"):
        load(crafted_array(b"f8", fields.replace(b"f8", b"O8"), b"\x01" * 8))
    with pytest.raises(pickle.UnpicklingError, match="dtype 'V8' are not admitted"):
        load(crafted_array(b"V8", PLAIN, b"\x01" * 8))
    with pytest.raises(pickle.UnpicklingError, match="dtype 'O8' are not admitted"):
        load(crafted_array(b"O8", PLAIN, b"\x01" * 8))


def test_items_must_fill_the_shape():
    with pytest.raises(pickle.UnpicklingError, match=r"shape \(1,\) and dtype f8 with 7 bytes"):
        load(crafted_array(b"f8", PLAIN, b"\x01" * 7))


def test_order_of_items_is_that_of_c_or_fortran():
    data = pickle.dumps(np.arange(6.0).reshape(2, 3), 5)
    assert data.count(b"\x8c\x01C") == 1
    assert np.array_equal(load(data.replace(b"\x8c\x01C", b"\x8c\x01F")), np.arange(6.0).reshape(3, 2).T)
    with pytest.raises(pickle.UnpicklingError, match="'A' is no order of an array's items"):
        load(data.replace(b"\x8c\x01C", b"\x8c\x01A"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_cut_is_refused(protocol):
    data = pickle.dumps({"weight": np.ones(3), "name": "x"}, protocol)
    for length in range(len(data)):
        with pytest.raises(pickle.UnpicklingError):
            load(data[:length])
