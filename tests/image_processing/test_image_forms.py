"""Objects that stand for an image beside paths, bytes, PIL images, arrays and tensors. Expected pixels are those of
the array that each is made of."""

import io
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2f.image_processing.image_forms import known_form, name_of_form
from m2f.image_processing.image_loading import load_images, load_label_maps, to_rgb

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded() -> bytes:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG")
    return file.getvalue()


class ArrayLike:
    """As of xarray, zarr, JAX or TensorFlow."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.array


class Interface:
    def __init__(self, array: np.ndarray):
        self.array, self.__array_interface__ = array, array.__array_interface__


class OnGpu:
    """As of CuPy."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")


class Answer:
    """As of a server: it has no way back."""

    def __init__(self, content: bytes):
        self.read = io.BytesIO(content).read


def at_its_end() -> io.BytesIO:
    file = io.BytesIO()
    file.write(encoded())
    return file


def spooled() -> tempfile.SpooledTemporaryFile:
    file = tempfile.SpooledTemporaryFile()
    file.write(encoded())
    return file


FORMS = {
    "bytes_io": lambda: io.BytesIO(encoded()),
    "bytes_io_at_its_end": at_its_end,
    "spooled_file": spooled,
    "answer": lambda: Answer(encoded()),
    "memoryview_of_a_file": lambda: memoryview(encoded()),
    "memoryview_of_an_array": lambda: memoryview(RGB),
    "array_like": lambda: ArrayLike(RGB),
    "array_like_stack": lambda: ArrayLike(RGB[None]),
    "interface": lambda: Interface(RGB),
    "row_with_bytes": lambda: {"bytes": encoded(), "path": "x.png"},
    "array_of_objects": lambda: np.array([io.BytesIO(encoded())], object),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_other_objects_are_images(form):
    (image,) = load_images(FORMS[form]())
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), RGB)


def test_open_files_and_rows_with_a_path_are_images(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(encoded())
    with path.open("rb") as file:
        for form in (file, {"bytes": None, "path": str(path)}, {"path": path}, np.array([str(path)])):
            np.testing.assert_array_equal(np.asarray(to_rgb(load_images(form)[0])), RGB)
        assert name_of_form(file) == name_of_form({"path": path}) == name_of_form(path) == str(path)
    assert name_of_form(io.BytesIO()) == name_of_form(RGB) == ""


def test_a_file_object_keeps_its_position_and_may_be_given_twice():
    file = at_its_end()
    end = file.tell()
    assert len(load_images([file, file])) == 2 and file.tell() == end
    file.seek(3)
    load_images(file)
    assert file.tell() == 3


def test_a_file_object_may_be_given_to_several_threads():
    class Slow(io.BytesIO):
        """Both threads would be within a file at the same time, unless one waits for the other."""

        def read(self, *args):
            start = super().read(10)
            time.sleep(0.05)
            return start + super().read()

    file = Slow(encoded())
    with ThreadPoolExecutor(2) as pool:
        contents = list(pool.map(known_form, [file, file]))
    assert [content == encoded() for content in contents] == [True, True]


@pytest.mark.parametrize(
    ("form", "error", "message"),
    [
        (io.StringIO("text"), ValueError, "StringIO gives text, and no image; open it with mode 'rb'"),
        (Answer, ValueError, "gives str, and bytes are needed"),
        (io.BytesIO(b"no image"), ValueError, "cannot decode 8 bytes as an image"),
        (io.BytesIO(), ValueError, "cannot decode 0 bytes"),
        ({"bytes": None, "path": None}, ValueError, "neither its 'bytes' nor its 'path'"),
        (OnGpu(), TypeError, "OnGpu cannot be made a NumPy array: Implicit"),
        (ArrayLike(np.array(None)), ValueError, r"shape \(\)"),
        (ArrayLike(np.zeros((4, 4), object)), TypeError, "got int"),
    ],
)
def test_what_holds_no_image_is_one_clear_line(form, error, message):
    if form is Answer:
        form = Answer(b"")
        form.read = lambda: "text"
    with pytest.raises(error, match=message) as caught:
        load_images(form)
    assert "\n" not in str(caught.value)


def test_text_files_and_closed_files_are_named(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(encoded())
    with path.open() as file, pytest.raises(ValueError, match=r"x\.png gives text"):
        load_images(file)
    with path.open("rb") as file:
        pass
    with pytest.raises(ValueError, match=r"x\.png cannot be read: .*closed"):
        load_images(file)


def test_a_directory_is_no_image(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_images(Path(tmp_path))


def test_label_maps_come_in_the_same_forms():
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    file = io.BytesIO()
    Image.fromarray(ids).save(file, "PNG")
    for form in (file, ArrayLike(ids), {"bytes": file.getvalue(), "path": None}):
        np.testing.assert_array_equal(load_label_maps([form], 1)[0], ids)
