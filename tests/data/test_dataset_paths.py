import os
from pathlib import Path

import pytest

from m2f.data.dataset_paths import (
    choose_split,
    files_with,
    find_folder,
    has_files_with,
    inside,
    split_of_folder,
    split_of_name,
    subfolders,
)


def touch(root: Path, *names: str):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize("folder", [".", "data", "../data", "/data"])
def test_names_inside_a_folder_are_taken(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b/a.png", "./a.png", "b/../a.png"):
        assert inside(Path(folder), name, "x") == Path(os.path.abspath(f"{folder}/{name}"))
    absolute = os.path.abspath(f"{folder}/a.png")
    assert inside(Path(folder), absolute, "x") == Path(absolute)


@pytest.mark.parametrize("folder", [".", "data", "../data", "/data"])
@pytest.mark.parametrize("name", ["..", "../a.png", "b/../../a.png", "/etc/passwd", "../datax/a.png"])
def test_names_outside_are_refused(folder, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"x.json names the file '{name}', which is outside {folder} and is not read"):
        inside(Path(folder), name, "x.json")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("train2017", "train"),
        ("instances_val2017", "val"),
        ("Validation", "val"),
        ("valid", "val"),
        ("panoptic-test-dev", "test"),
        ("train-00000-of-00002", "train"),
        ("trains", None),
        ("evaluation", None),
        ("", None),
    ],
)
def test_splits_in_names(name, split):
    assert split_of_name(name) == split


def test_splits_that_folders_hold():
    names = ("train", "Train2017", "validation", "test_data", "images", "")
    assert [split_of_folder(name) for name in names] == ["train", "train", "val", None, None, None]


def test_a_split_is_chosen_by_name_or_meaning():
    assert choose_split("valid", ["train", "valid"], "x") == "valid"
    assert choose_split("val", ["train", "valid"], "x") == "valid"
    assert choose_split("train", ["train2017"], "x") == "train2017"
    assert choose_split("val", ["val", "valid"], "x") == "val"
    assert choose_split("fold1", ["fold1", "fold2"], "x") == "fold1"
    with pytest.raises(ValueError, match="x has no split 'val'; it has 'train', 'test'"):
        choose_split("val", ["train", "test"], "x")
    with pytest.raises(ValueError, match="x has no split 'validation'; it has 'val', 'valid'"):
        choose_split("validation", ["val", "valid"], "x")
    with pytest.raises(ValueError, match="x has no split 'fold'; it has none"):
        choose_split("fold", [], "x")


def test_files_are_listed_by_suffix_without_hidden_ones(tmp_path):
    touch(tmp_path, "b.PNG", "a.png", "c/d.png", "c/e.txt", "._a.png")
    (tmp_path / "folder.png").mkdir()
    assert files_with(tmp_path, (".png",)) == ["a.png", "b.PNG", "c/d.png"]
    assert has_files_with(tmp_path, (".png",)) and not has_files_with(tmp_path, (".jpg",))
    assert subfolders(tmp_path) == [tmp_path / "c", tmp_path / "folder.png"]
    assert subfolders(tmp_path / "absent") == subfolders(tmp_path / "a.png") == []


def test_the_nearest_folder_with_the_files_is_found(tmp_path):
    json = tmp_path / "x.json"
    touch(tmp_path, "far/images/a.png", "far/images/b.png")
    assert find_folder(["a.png", "b.png"], json, "option") == tmp_path / "far" / "images"
    touch(tmp_path, "some/a.png", "all/a.png", "all/b.png")
    assert find_folder(["a.png", "b.png"], json, "option") == tmp_path / "all"
    touch(tmp_path, "a.png")
    assert find_folder(["a.png", "b.png"], json, "option") == tmp_path
    assert find_folder(["all/b.png", "absent.png"], json, "option") == tmp_path


def test_folders_beside_annotations_are_searched(tmp_path):
    touch(tmp_path, "images/val2017/a.png")
    assert find_folder(["a.png"], tmp_path / "annotations" / "x.json", "option") == tmp_path / "images" / "val2017"
    with pytest.raises(FileNotFoundError, match=r"x\.json: no folder in .* such as a\.png; give option"):
        find_folder(["a.png"], tmp_path / "other" / "x.json", "option")


def test_among_equals_the_folder_of_the_split_counts(tmp_path):
    touch(tmp_path, "train2017/a.png", "val2017/a.png", "test/a.png")
    assert find_folder(["a.png"], tmp_path / "instances_val.json", "option") == tmp_path / "val2017"
    with pytest.raises(ValueError, match=r"x\.json: its files may be those in .*test or .*train2017 or .*; give"):
        find_folder(["a.png"], tmp_path / "x.json", "option")


def test_files_outside_are_not_looked_for(tmp_path):
    touch(tmp_path, "a.png", "b/c.png")
    for name, words in ((["../a.png"], "../a.png"), ([str(tmp_path / "a.png")], "/.*a.png"), ([], "none")):
        with pytest.raises(FileNotFoundError, match=f"such as {words}; give option"):
            find_folder(name, tmp_path / "b" / "x.json", "option")


def test_folders_are_found_by_the_ends_of_names(tmp_path):
    touch(
        tmp_path, "d/images/train/a.png", "d/images/val/a.png", "d/images/val/B.JPG", "d/masks/c.png", "d/pics/e.png"
    )
    json = tmp_path / "d" / "x.json"
    for names, folder in (
        (["/home/me/train/a.png", "/home/me/val/a.png"], "images"),
        (["C:\\x\\e.png"], "pics"),
        (["http://host/e.png"], "pics"),
        (["../../b.jpg"], "images/val"),
    ):
        assert find_folder(names, json, "image_folder") == tmp_path / "d" / folder
    with pytest.raises(FileNotFoundError):
        find_folder(["../c.png"], json, "image_folder")  # masks are no images
    assert find_folder(["../c.png"], json, "segments_folder") == tmp_path / "d" / "masks"


def test_images_may_be_beside_the_folder_of_the_split(tmp_path):
    touch(tmp_path, "val/x.json", "images/val/a.png", "train/a.png")
    assert find_folder(["a.png"], tmp_path / "val" / "x.json", "option") == tmp_path / "images" / "val"
    touch(tmp_path, "val/y.json", "train/b.png")
    with pytest.raises(FileNotFoundError):  # images of another split are no substitute
        find_folder(["b.png"], tmp_path / "val" / "y.json", "option")
