"""Reading a json entry by entry against `json.loads` of the whole, for texts that are json and for broken ones."""

import json
import random
import tracemalloc

import pytest

from m2f.data.json_entries import NoJsonObject, read_entries

CONTENT = {
    "info": {"images": [1, [2]], "x": None},
    "images": [{"id": -12345678901234567890, "file_name": 'é\\"\ud800𝄞', "w": 1.5e-7}, {}, [], 30, "a,]}", True, None],
    "": [],
    "annotations": [[[1.25, 2], {"k": [[]]}]],
    "n": 12.5,
}


def by_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return NoJsonObject


def by_entries(path, text: str, encoding: str = "utf-8") -> object:
    path.write_bytes(text.encode(encoding, "surrogatepass"))
    try:
        return read_entries(path, lambda section, entry: entry)
    except NoJsonObject:
        return NoJsonObject


@pytest.fixture(params=[1, 7, 1 << 16])
def path(request, tmp_path, monkeypatch):
    """Of a file that is read in blocks of so many characters, so that values lie across their borders."""
    monkeypatch.setattr("m2f.data.json_entries._BLOCK", request.param)
    return tmp_path / "x.json"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
@pytest.mark.parametrize("indent", [None, 2])
def test_same_content_in_every_encoding(path, encoding, indent):
    text = json.dumps(CONTENT, indent=indent, ensure_ascii=False)
    assert by_entries(path, f"\r\n\t {text}\n ", encoding) == CONTENT
    assert by_entries(path, json.dumps(CONTENT), encoding) == CONTENT


def test_broken_texts_are_told_from_json(path):
    """Characters of a json are left out, doubled and exchanged; most are no json then, and some another one."""
    draw, text, kinds = random.Random(0), json.dumps(CONTENT, ensure_ascii=True), set()
    for _ in range(200):
        characters = list(text)
        for _ in range(draw.randint(1, 2)):
            place = draw.randrange(len(characters))
            characters[place] = draw.choice(["", characters[place] * 2, draw.choice('[]{},:" 1-')])
        broken = "".join(characters)
        expected = by_json(broken)
        expected = expected if isinstance(expected, dict) else NoJsonObject
        assert by_entries(path, broken) == expected, broken
        kinds.add(expected is NoJsonObject)
    assert kinds == {True, False}


@pytest.mark.parametrize("text", ["", " ", "[]", "3", '"a"', "{", '{"a"', '{"a":', '{"a":1,}', '{"a":[1,]}', "{1: 2}"])
def test_what_is_no_object(path, text):
    assert by_entries(path, text) is NoJsonObject
    assert by_entries(path, text + '{"a": 1} x') is NoJsonObject


@pytest.mark.parametrize("text", [b'{"a": "\xff"}', b'{"a": ' + b"[" * 200_000, b'{"a": ' + b"1" * 5000 + b"}"])
def test_what_json_cannot_read(path, text):
    path.write_bytes(text)
    with pytest.raises(NoJsonObject):
        read_entries(path, lambda section, entry: entry)


def test_entries_are_kept_as_told(path):
    path.write_text('{"a": [1, [2], {"b": [3]}], "c": {"d": [4]}, "e": [], "a": [5]}')
    seen = []
    content = read_entries(path, lambda section, entry: seen.append((section, entry)) or len(seen))
    assert seen == [("a", 1), ("a", [2]), ("a", {"b": [3]}), ("a", 5)]
    assert content == {"a": [4], "c": {"d": [4]}, "e": []}


def test_little_is_in_memory_at_a_time(tmp_path):
    """A text of 16 MB, of which nothing is kept, takes the memory of a few blocks of 1 MB."""
    (tmp_path / "x.json").write_text(json.dumps({"a": ["x" * 100_000] * 160}))
    tracemalloc.start()
    try:
        assert read_entries(tmp_path / "x.json", lambda section, entry: None) == {"a": [None] * 160}
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
