"""What may stand for an image beside paths, bytes, PIL images, arrays and tensors: file objects, entries of
`datasets`, and objects that can be made arrays."""

import io
import os
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from m2f.image_processing.band_image import BandImage

_KNOWN = (str, os.PathLike, bytes, bytearray, Image.Image, BandImage, np.ndarray, torch.Tensor)
_ARRAY_METHODS = ("__array__", "__array_interface__")
# Several threads may be given one file object, which has one position.
_reading = threading.Lock()


def is_array_form(image: Any) -> bool:
    """Whether something is an array, or can be made one: one image or, with one dimension more, several."""
    if isinstance(image, np.ndarray | torch.Tensor):
        return True
    if isinstance(image, (*_KNOWN, list, tuple)):
        return False
    return image.ndim > 1 if isinstance(image, memoryview) else _is_array(image)


def is_file_form(image: Any) -> bool:
    """Whether something stands for one image and is no array: a file, its content or a PIL image."""
    if isinstance(image, (str, os.PathLike, bytes, bytearray, Image.Image, BandImage)) or _is_entry(image):
        return True
    return not is_array_form(image) and (isinstance(image, memoryview) or hasattr(image, "read"))


def known_form(image: Any) -> Any:
    """The image as a path, text, bytes, PIL image, array or tensor. What is none and cannot be made one stays.

    Args:
        image: one of these; a file object opened for bytes, which is read from its beginning, as Pillow does, if it
            can go there, and left at the position that it had; a dict with "bytes" or "path", as `datasets` has it
            without decoding; a memoryview of a file's bytes, or of an array; an object with `__array__` or
            `__array_interface__` (xarray, zarr, JAX, TensorFlow).

    Raises:
        ValueError: a file object that is closed, gives text or cannot be read; a dict with neither.
        TypeError: an array that cannot be had in the CPU's memory.
    """
    if isinstance(image, _KNOWN):
        return image
    if isinstance(image, memoryview):
        return image.tobytes() if image.ndim == 1 else np.asarray(image)
    if _is_entry(image):
        return _content_of_entry(image)
    if _is_array(image):
        return _as_array(image)
    return _content_of_file(image) if hasattr(image, "read") else image


def name_of_form(image: Any) -> str:
    """The file that an image comes from, as far as it tells; else ""."""
    if isinstance(image, Mapping):
        image = image.get("path") or ""
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    name = getattr(image, "filename", "") if isinstance(image, Image.Image) else getattr(image, "name", "")
    return name if isinstance(name, str) else ""


def _is_entry(image: Any) -> bool:
    return isinstance(image, Mapping) and bool({"bytes", "path"} & set(image))


def _is_array(image: Any) -> bool:
    return not isinstance(image, type) and any(hasattr(image, name) for name in _ARRAY_METHODS)


def _content_of_entry(image: Mapping) -> Any:
    for key in ("bytes", "path"):
        if image.get(key) is not None:
            return image[key]
    raise ValueError("a dict is given for an image, and neither its 'bytes' nor its 'path' is there")


def _as_array(image: Any) -> np.ndarray:
    try:
        array = np.asarray(image)
    except (TypeError, ValueError, RuntimeError) as error:  # of an array on a GPU, among others
        raise TypeError(f"an image of type {type(image).__name__} cannot be made a NumPy array: {error}") from error
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _content_of_file(file: Any) -> bytes:
    name = f"the file object {name_of_form(file) or type(file).__name__}"
    if isinstance(file, io.TextIOBase):
        raise ValueError(f"{name} gives text, and no image; open it with mode 'rb'")
    try:
        with _reading:
            content = _read_whole(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    if not isinstance(content, bytes | bytearray | memoryview):
        raise ValueError(f"{name} gives {type(content).__name__}, and bytes are needed; open it with mode 'rb'")
    return bytes(content)


def _read_whole(file: Any) -> Any:
    try:
        position = file.tell()
        file.seek(0)
    except (AttributeError, io.UnsupportedOperation, OSError):  # a pipe, or the answer of a server
        return file.read()
    try:
        return file.read()
    finally:
        file.seek(position)
