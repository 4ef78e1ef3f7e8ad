"""The bundled model on an image of nuclei in every form. Expected: what it finds in the image of 8 bits."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2f.inference.image_sources import read_image
from m2f.inference.segmenter import Segmenter

FILE = Path(__file__).parents[2] / "examples" / "nuclei" / "val" / "03b9306f44e9b895.png"
NUCLEI = 23  # in tiles and resized as the checkpoint says


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def grey() -> np.ndarray:
    return np.asarray(Image.open(FILE).convert("L"))


@pytest.fixture
def said(monkeypatch) -> set[str]:
    found: set[str] = set()
    for module in ("m2f.image_processing.image_loading", "m2f.data.image_reading"):
        monkeypatch.setattr(f"{module}.logger.warning_once", found.add)
    return found


def content(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_as_many_nuclei_in_12_bits_as_in_8(segmenter, grey, said):
    """The image is cut into tiles, which have their own highest values: white is found before."""
    twelve = (grey.astype(np.uint16) * 16) | 5
    assert segmenter.tile is not None and max(grey.shape) > segmenter.tile
    first, second = segmenter(grey), segmenter(content(Image.fromarray(twelve), "TIFF"))
    assert len(first) == len(second) == NUCLEI
    np.testing.assert_allclose(np.asarray(second.image), np.asarray(first.image), atol=1)
    assert len(said) == 1 and "12 bits" in said.pop()


def test_the_same_pixels_in_every_wider_type(segmenter, grey, said, tmp_path):
    """So also what is found in them."""
    wide, expected = grey.astype(np.uint16), np.asarray(read_image(grey))
    for pixels in (wide, wide.astype(np.int32), wide.astype(np.float32)):
        image, path = Image.fromarray(pixels), tmp_path / "x.tif"
        image.save(path)
        for form in (pixels, image, path, path.read_bytes(), io.BytesIO(path.read_bytes())):
            np.testing.assert_array_equal(np.asarray(read_image(form)), expected)
    np.testing.assert_array_equal(np.asarray(read_image(wide * 257)), expected)
    assert not said
    unit = Image.fromarray((grey / 255).astype(np.float32))
    for form in (unit, content(unit, "TIFF")):
        np.testing.assert_array_equal(np.asarray(read_image(form)), expected)
    assert len(said) == 1


def test_a_white_level_of_the_segmenter_comes_before_that_of_the_processor(segmenter):
    image = np.full((40, 40), 1000, np.uint16)
    small = {"model": segmenter.model, "processor": segmenter.processor, "tile": 0}
    for given, white in ((None, 4095), (2000, 2000), ("type", 65535), ("data", 1000)):
        result = Segmenter(**small, white_level=given)(image)
        assert np.asarray(result.image)[0, 0, 0] == round(1000 * 255 / white)
    with pytest.raises(ValueError, match="white_level must be"):
        Segmenter(**small, white_level="white")
    processor = type(segmenter.processor).from_dict({**segmenter.processor.to_dict(), "white_level": 2000})
    assert Segmenter(segmenter.model, processor).white_level == 2000
    assert Segmenter(segmenter.model, processor, white_level="auto").white_level is None


class ArrayLike:
    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


def test_file_objects_and_array_likes_are_one_image_and_iterators_are_not(segmenter, monkeypatch):
    """A file object is an iterator of lines too."""
    names = []

    def stream(self, images, waits=True):
        for image in images:
            names.append((np.asarray(read_image(image)).shape, getattr(image, "name", "")))
            yield len(names)

    monkeypatch.setattr(Segmenter, "_stream", stream)
    array = np.zeros((4, 6, 3), np.uint8)
    png = content(Image.fromarray(array), "PNG")
    with FILE.open("rb") as file:
        ones = (file, io.BytesIO(png), memoryview(png), ArrayLike(array), {"bytes": png, "path": None})
        assert [segmenter(image) for image in ones] == [1, 2, 3, 4, 5]
    assert names[0] == ((360, 360, 3), str(FILE)) and {shape for shape, _ in names[1:]} == {(4, 6, 3)}
    lists = ([io.BytesIO(png)] * 2, ArrayLike(np.stack([array] * 2)), np.array([str(FILE)] * 2))
    assert [segmenter(images) for images in lists] == [[6, 7], [8, 9], [10, 11]]
    assert list(segmenter(io.BytesIO(png) for _ in range(2))) == [12, 13]


def test_text_and_broken_file_objects_are_one_clear_line(segmenter):
    for form, message in (
        (io.StringIO("x"), "gives text, and no image"),
        (io.BytesIO(b"nonsense"), "8 bytes is no image of a known format"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            segmenter(form)
        assert "\n" not in str(caught.value)
