import json
import math
import pickle
import random

import pytest

from m2f.data.coco_json import (
    CATEGORY_RULES,
    FLAG,
    ID,
    IMAGE_RULES,
    LIST,
    CocoImage,
    PackedLists,
    by_id,
    check_entries,
    coco_image_files,
    coco_images,
    read_json,
    read_sections,
)

IMAGE = {"id": 1, "file_name": "a.png", "height": 3, "width": 4}


def test_packed_lists_come_back_exactly():
    rng = random.Random(0)
    lists = [[rng.random() * 10 ** rng.randrange(-5, 5) for _ in range(rng.randrange(9))] for _ in range(20)]
    lists.append([{"size": [3, 4], "counts": 'é\\"\ud800', "x": None}, [1, 2.5, True]])
    packed = pickle.loads(pickle.dumps(PackedLists(lists, "x.json")))  # as worker processes get it
    assert len(packed) == 21
    assert [packed[i] for i in range(21)] == lists
    assert packed[-1] == lists[-1]
    for index in (21, -22):
        with pytest.raises(IndexError):
            packed[index]


def test_lists_nested_too_deeply_are_refused():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match=r"x\.json has lists that are nested too deeply"):
        PackedLists([deep], "x.json")


@pytest.mark.parametrize("content", [b"\xff\xfe{", b'{"images": [', b"[" * 200_000, b"", b"1" * 5000])
def test_what_is_no_json_is_named(tmp_path, content):
    """The last two are no text at all, and a number of more digits than Python reads."""
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json is not a json file"):
        read_json(tmp_path / "x.json")


def test_a_missing_json_is_named(tmp_path):
    for path in (tmp_path / "x.json", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"no such file: {path}"):
            read_json(path)


@pytest.mark.parametrize("content", [[], {}, {"images": {}}, {"images": None}, 3])
def test_missing_sections_are_named(tmp_path, content):
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"x\.json has no list 'images'; a COCO json has images, categories"):
        read_sections(tmp_path / "x.json", {"images": IMAGE_RULES, "categories": CATEGORY_RULES}, "COCO")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("id", None, "an integer or a text"),
        ("id", True, "an integer or a text"),
        ("id", [1], "an integer or a text"),
        ("file_name", "", "a text"),
        ("file_name", 3, "a text"),
        ("height", 0, "an integer above 0"),
        ("height", 3.0, "an integer above 0"),
        ("width", math.nan, "an integer above 0"),
        ("width", True, "an integer above 0"),
    ],
)
def test_wrong_values_are_named(key, value, expected):
    entry = {**IMAGE, key: value}
    name = "id 1" if key != "id" else "number 0"
    with pytest.raises(ValueError, match=f"x.json, {name}: '{key}' is .*; {expected} is needed"):
        check_entries([entry], IMAGE_RULES, "x.json")


def test_missing_keys_and_entries_of_other_kinds_are_named():
    check_entries([IMAGE, {**IMAGE, "id": "text", "licence": 3}], IMAGE_RULES, "x")
    with pytest.raises(ValueError, match="x, id 1 has no 'width'"):
        check_entries([IMAGE, {"id": 1, "file_name": "a", "height": 3}], IMAGE_RULES, "x")
    with pytest.raises(ValueError, match="x, number 1 is 7; a dict is needed"):
        check_entries([IMAGE, 7], IMAGE_RULES, "x")
    with pytest.raises(ValueError, match="'list' is {}; a list is needed"):
        check_entries([{"list": {}}], {"list": LIST}, "x")


def test_flags_may_be_absent():
    rules = {"id": ID, "iscrowd": FLAG}
    check_entries([{"id": 1}, *({"id": 1, "iscrowd": flag} for flag in (0, 1, True, False, None))], rules, "x")
    for flag in (2, -1, "1", [], 1.0):
        with pytest.raises(ValueError, match="'iscrowd' is .*; 0 or 1 is needed"):
            check_entries([{"id": 1, "iscrowd": flag}], rules, "x")


def test_a_deep_value_is_shown_in_short():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError) as error:
        check_entries([{**IMAGE, "height": deep}], IMAGE_RULES, "x")
    assert len(str(error.value)) < 200


def test_ids_that_appear_twice_are_refused(tmp_path):
    assert by_id([{"id": 1}, {"id": "1"}], "x") == {1: {"id": 1}, "1": {"id": "1"}}
    with pytest.raises(ValueError, match=r"x\.json: 'images': id 1 appears more than once"):
        coco_images({"images": [IMAGE, IMAGE]}, "x.json")
    assert coco_images({"images": [{**IMAGE, "licence": 3}]}, "x.json") == [CocoImage(1, "a.png", 3, 4)]


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "b/../../a.png"])
@pytest.mark.parametrize("folder", [".", "images", "/images"])
def test_images_outside_the_folder_are_refused(tmp_path, monkeypatch, name, folder):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.json"
    with pytest.raises(ValueError, match=rf"x\.json, image 1 names the file '{name}', which is outside {folder}"):
        coco_image_files([CocoImage(1, name, 3, 4)], path, folder)
