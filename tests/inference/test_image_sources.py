"""Which images inputs name, and reading images of all kinds."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from m2f.inference.image_sources import find_images, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
NO_LIST = io.StringIO("")


def encoded(suffix: str = "png", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, suffix, **options)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.png", "a.JPG", "notes.txt", "inner/c.png", "inner/deep/d.tif", ".hidden.png", "out/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*inputs: str, listed: str = "", **options) -> list[str]:
    return [source.name for source in find_images(inputs, io.StringIO(listed), **options)]


def test_folders_files_and_patterns(folder):
    assert names("inner") == ["c.png", "deep/d.tif"]
    assert names("b.png", "inner/c.png") == ["b.png", "c.png"]
    assert names("notes.txt") == ["notes.txt"]  # named itself; that it is no image shows when it is read
    assert names("*.png") == ["b.png"]
    assert names("inner/**/*.*") == ["c.png", "deep/d.tif"]
    assert names(str(folder / "inner" / "*")) == ["c.png", "deep/d.tif"]  # a folder that a pattern matches


def test_each_image_once(folder):
    assert names("b.png", ".", "./b.png") == ["b.png", "a.JPG", "inner/c.png", "inner/deep/d.tif", "out/e.png"]


def test_output_folder_is_no_input(folder):
    assert "out/e.png" not in names(".", leave_out=folder / "out")
    assert names("out/e.png", leave_out=folder / "out") == ["e.png"]
    assert names("out", leave_out=folder / "out") == ["e.png"]
    assert names("*", leave_out=folder / "out") == ["a.JPG", "b.png", "inner/c.png", "inner/deep/d.tif", "out/e.png"]
    assert "out/e.png" not in names("**/*.*", leave_out=folder / "out")


def test_list_on_standard_input(folder):
    assert names("a.JPG", "-", listed="b.png\n\ninner/c.png\r\n") == ["a.JPG", "b.png", "c.png"]
    with pytest.raises(FileNotFoundError, match="standard input is empty"):
        find_images(["-"], io.StringIO("\n"))


def test_names_with_wildcards_are_files_first(folder):
    (folder / "[1].png").write_bytes(encoded())
    assert names("[1].png") == ["[1].png"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nothing", "no such file or folder: nothing"),
        ("empty", "no images found: empty"),
        ("*.gif", "no images found"),
    ],
)
def test_no_images(folder, word, message):
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        find_images([word], NO_LIST)


def test_urls_only_when_asked():
    url = "https://example.org/pictures/a%20cat.jpg?size=1"
    with pytest.raises(ValueError, match="--allow-urls"):
        find_images([url], NO_LIST)
    assert names(url, allow_urls=True) == ["a cat.jpg"]
    assert names("http://example.org/", allow_urls=True) == ["image"]


def test_an_address_is_downloaded(monkeypatch):
    monkeypatch.setattr("m2f.inference.image_sources.download", {"http://x.org/x.png": encoded()}.__getitem__)
    np.testing.assert_array_equal(np.asarray(read_image("http://x.org/x.png")), PIXELS)


def test_all_kinds_of_images(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(encoded())
    sixteen = PIXELS[..., 0].astype(np.uint16) * 257  # the same brightness in 16 bits
    kinds = (str(path), path, encoded(), Image.open(path), PIXELS, torch.from_numpy(PIXELS).permute(2, 0, 1))
    for image in (*kinds, PIXELS.astype(np.float32)):
        result = read_image(image)
        assert result.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(result), PIXELS)
    np.testing.assert_array_equal(np.asarray(read_image(sixteen))[..., 2], PIXELS[..., 0])


@pytest.mark.parametrize("as_file", [True, False])
def test_orientation(tmp_path, as_file):
    """6: the camera was turned; the stored pixels are to be turned by 90 degrees to the right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "x.png"
    path.write_bytes(encoded(exif=exif))
    result = read_image(path if as_file else Image.open(path))
    for image in (result, read_image(result)):
        np.testing.assert_array_equal(np.asarray(image), np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"nonsense", "8 bytes is no image of a known format"),
        (encoded()[:60], "cannot decode 60 bytes"),
        (np.zeros((2, 2), np.float32) + 0.5, "multiply it by 255"),
        (np.full((2, 2), 300.0), "0 to 255"),
        (np.zeros((2, 2, 7), np.uint8), "1, 3 or 4 channels"),
        (np.full((2, 2), np.nan), "not finite"),
    ],
)
def test_bad_images(image, message):
    with pytest.raises(ValueError, match=message):
        read_image(image)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_image(os.fspath(tmp_path / "missing.png"))
