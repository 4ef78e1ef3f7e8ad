"""Names of output files, and files that are whole or not there."""

import os

import pytest

from m2f.inference.image_sources import ImageSource
from m2f.inference.output_names import output_names, remove_unfinished, write_whole


def names_of(*pairs: tuple[str, str]) -> list[str]:
    return output_names([ImageSource(*pair) for pair in pairs])


def test_an_image_keeps_its_name():
    assert names_of(("/x/a.png", "a.png"), ("/x/in/b.tar.jpg", "in/b.tar.jpg"), ("/y/c", "c")) == [
        "a",
        "in/b.tar",
        "c",
    ]


@pytest.mark.parametrize(
    "pairs",
    [
        [("x/a.png", "a.png"), ("y/a.png", "a.png")],
        [("x/a.png", "a.png"), ("x/a.jpg", "a.jpg")],
        [("x/a.png", "a.png"), ("x/A.png", "A.png")],
    ],
)
def test_names_differ_whatever_the_order(pairs):
    first, second = names_of(*pairs)
    assert first.casefold() != second.casefold() and first.startswith("a-")
    assert names_of(*reversed(pairs)) == [second, first]


def test_names_stay_inside_the_folder_and_within_limits():
    (name,) = names_of(("x", "../../etc/passwd.png"))
    assert name == "etc/passwd"
    assert names_of(("x", "/..")) == ["image"]
    long = names_of(("x", "a" * 251 + ".png"), ("y", "a" * 250 + "b.png"))
    assert len(set(long)) == 2 and all(len(os.fsencode(name)) < 200 for name in long)


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "in" / "x.txt"
    write_whole(path, lambda file: file.write_text("old"))

    def fails(file):
        assert file.suffix == ".txt" and file.parent == path.parent
        file.write_text("half")
        assert path.read_text() == "old"
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_whole(path, fails)
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed(tmp_path):
    left = []

    def killed(file):
        file.write_text("half")
        left.append(file.rename(file.with_name(file.name + "x")))  # out of reach of the tidying

    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "in" / "x.txt", killed)
    assert left[0].exists()
    remove_unfinished(tmp_path)
    assert not left[0].exists()
