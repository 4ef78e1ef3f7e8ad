"""Which file a name means that another machine, system or tool wrote."""

import unicodedata
from pathlib import Path

import pytest

from m2f.data.dataset_paths import name_parts
from m2f.data.named_files import NamedFiles


def touch(root: Path, *names: str):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def path_of(folder: Path, name: str) -> str:
    files = NamedFiles(folder)
    return files.path(files.add(name, "x.json")).relative_to(folder).as_posix()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.png", ["a.png"]),
        ("./x//a.png", ["x", "a.png"]),
        ("../../x/a.png", ["x", "a.png"]),
        ("x\\a.png", ["x", "a.png"]),
        ("C:\\data\\x\\a.png", ["data", "x", "a.png"]),
        ("\\\\server\\share\\a.png", ["server", "share", "a.png"]),
        ("http://images.cocodataset.org/train2017/1.jpg", ["train2017", "1.jpg"]),
        ("https://host/x/a%20b.png?size=1#top", ["x", "a b.png"]),
        ("s3://bucket/x/a.png", ["x", "a.png"]),
        ("file:///home/me/a.png", ["home", "me", "a.png"]),
        ("/data/local-files/?d=x/a%20b.png", ["x", "a b.png"]),
        ("a:b.png", ["a:b.png"]),
        ("..", []),
    ],
)
def test_parts_of_names(name, parts):
    assert name_parts(name) == parts


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.png", "a.png"),
        ("x/b.png", "x/b.png"),
        ("x\\b.png", "x/b.png"),
        ("..\\..\\x\\b.png", "x/b.png"),
        ("../../elsewhere/b.png", "x/b.png"),
        ("/home/me/x/b.png", "x/b.png"),
        ("/home/me/b.png", "x/b.png"),
        ("D:/me/b.png", "x/b.png"),
        ("https://host/bucket/x/b.png?token=../../etc", "x/b.png"),
        ("a.PNG", "a.png"),
        ("X/B.png", "x/b.png"),
        (unicodedata.normalize("NFD", "é.png"), "é.png"),
        (unicodedata.normalize("NFC", "è.png"), unicodedata.normalize("NFD", "è.png")),
        ("two%20words.png", "two words.png"),
        ("train/c.png", "train/c.png"),
        ("/abs/train/c.png", "train/c.png"),
        ("other/d.png", "other/d.png"),  # two of the name, none in such a folder: missing
        ("/abs/y/d.png", "y/d.png"),
        ("absent.png", "absent.png"),
        ("C:\\x\\absent.png", "x/absent.png"),
    ],
)
def test_a_name_means_the_file_that_fits_best(tmp_path, name, found):
    touch(tmp_path, "a.png", "x/b.png", "é.png", "two words.png", "train/c.png", "val/c.png", "y/d.png", "z/d.png")
    touch(tmp_path, unicodedata.normalize("NFD", "è.png"), "masks/only.png")
    assert path_of(tmp_path, name) == found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("../data/media/upload/3/1c719314-a.png", "y/a.png"),
        ("1c719314-a.png", "y/a.png"),
        ("/data/upload/3/1c719314-b_c_1_%C3%BC.png", "b c (1) ü.png"),
        ("1c719314-d.png", "1c719314-d.png"),
        ("1c719314_a.png", "1c719314_a.png"),
        ("1c719314-a-a.png", "1c719314-a-a.png"),
    ],
)
def test_uploads_are_the_files_that_they_were(tmp_path, name, found):
    """Label Studio puts eight characters before a name, and changes others; the last two are missing."""
    touch(tmp_path, "y/a.png", "b c (1) ü.png", "d.png", "1c719314-d.png")
    assert path_of(tmp_path, name) == found


def test_absolute_names_in_the_folder_are_taken(tmp_path):
    touch(tmp_path, "x/a.png")
    assert NamedFiles(tmp_path).add(str(tmp_path / "x" / "a.png"), "x.json") == "x/a.png"
    assert NamedFiles(tmp_path).add("x/../x/a.png", "x.json") == "x/a.png"
    touch(tmp_path, "b\\a.png")  # a file of this name, not one in a folder b
    assert path_of(tmp_path, "b\\a.png") == "b\\a.png"


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.png", "x/../../secret.png", "../folder2/a.png"])
def test_nothing_outside_is_ever_meant(tmp_path, name):
    folder = tmp_path / "folder"
    touch(tmp_path, "secret.png", "folder2/a.png", "folder/b.png")
    with pytest.raises(ValueError, match=f"x.json names the file '{name}', which is outside {folder} and is not read"):
        NamedFiles(folder).add(name, "x.json")
    for other in ("http://host/../../secret.png", "C:\\..\\secret.png", "..\\secret.png"):
        files = NamedFiles(folder)
        try:
            found = files.path(files.add(other, "x.json"))
        except ValueError:
            continue
        assert found.is_relative_to(folder) and not found.exists()


def test_several_that_fit_are_named(tmp_path):
    touch(tmp_path, "p/a.png", "q/a.png")
    with pytest.raises(
        ValueError, match="x.json names the file '../a.png', which may be any of 'p/a.png', 'q/a.png' in"
    ):
        NamedFiles(tmp_path).add("../a.png", "x.json")
    files = NamedFiles(tmp_path)
    name = files.add("r/a.png", "x.json")
    missing = tmp_path / "r" / "a.png"
    assert files.find(name) == (missing, f"which may be any of 'p/a.png', 'q/a.png' in {tmp_path}")
    touch(tmp_path, "r/a.png")
    assert files.find(name) == (missing, "")


def test_a_file_is_meant_by_one_name_only(tmp_path):
    touch(tmp_path, "x/a.png")
    for first, second in (("../a.png", "x/a.png"), ("x/a.png", "../a.png"), ("/p/a.png", "/q/a.png")):
        files = NamedFiles(tmp_path)
        files.add(first, "x.json")
        with pytest.raises(ValueError, match=f"'{second}', but 'x/a.png' in .* is already that of '{first}'"):
            files.add(second, "x.json")
        files.add(first, "x.json")  # an image that is listed twice
    files = NamedFiles(tmp_path)
    for name in ("x/a.png", "y/a.png"):
        files.add(name, "x.json")
    assert files.path("y/a.png") == tmp_path / "y" / "a.png"  # missing; the other is taken
    files = NamedFiles(tmp_path)
    names = [files.add(name, "x.json") for name in ("p/a.png", "q/a.png")]  # one of the two at most
    assert not any(files.path(name).exists() for name in names)


def test_images_are_no_label_maps_and_of_no_other_split(tmp_path):
    touch(tmp_path, "masks/a.png", "train2017/b.png")
    assert path_of(tmp_path, "a.png") == "a.png"
    assert path_of(tmp_path, "masks\\a.png") == "masks/a.png"
    files = NamedFiles(tmp_path, are_labels=True)
    assert files.path(files.add("a.png", "x.json")) == tmp_path / "masks" / "a.png"
    files = NamedFiles(tmp_path)
    assert not files.path(files.add("val/b.png", "x.json")).exists()
    assert files.path(files.add("images/b.png", "x.json")) == tmp_path / "train2017" / "b.png"
