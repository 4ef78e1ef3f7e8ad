"""Weights in a folder that are broken, elsewhere or of another model: one line, and nothing is read from elsewhere."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import small_model

from m2f.modeling_m2f.checkpoint_report import CheckpointMismatchError
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

SHARD, INDEX, WHOLE, PICKLE = (
    "shard.safetensors",
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin",
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    small_model().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """With config.json, and the weights under a name that is none of a checkpoint."""
    place = tmp_path / "folder"
    place.mkdir()
    (place / "config.json").write_bytes((saved / "config.json").read_bytes())
    (place / SHARD).write_bytes((saved / WHOLE).read_bytes())
    return place


def load(folder: Path):
    return M2FForUniversalSegmentation.from_pretrained(folder)


def refusal(folder: Path) -> str:
    with pytest.raises((OSError, ValueError, CheckpointMismatchError)) as error:
        load(folder)
    message = str(error.value)
    assert "\n" not in message and len(message) < 1000, message
    return message


def write_index(folder: Path, weight_map):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_an_index_and_a_linked_shard_are_read(folder, tmp_path):
    """As the Hub's cache has its files."""
    (folder / SHARD).rename(tmp_path / "blob")
    (folder / SHARD).symlink_to(tmp_path / "blob")
    write_index(folder, dict.fromkeys(load_file(folder / SHARD), SHARD))
    assert load(folder).config.num_queries == 8


@pytest.mark.parametrize(
    "weight_map", [[SHARD], 3, None, {}, "x", {"a": 3}, {"a": None}, {"a": [SHARD]}, {"a": {"b": SHARD}}]
)
def test_a_malformed_index(folder, weight_map):
    write_index(folder, weight_map)
    assert INDEX in refusal(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "[" * 200_000, '{"weight_map": {"a": "shard.safetensors"}}']
)
def test_an_index_that_is_none(folder, text):
    (folder / INDEX).write_text(text)
    assert INDEX in refusal(folder)


@pytest.mark.parametrize(
    "name",
    ["{elsewhere}", "../elsewhere.safetensors", "a/../../elsewhere.safetensors", "..\\elsewhere.safetensors", "..",
     "C:\\x.safetensors", "C:x.safetensors", "\\\\host\\x.safetensors", "", ".", "/dev/zero", "x\0.safetensors"],
)  # fmt: skip
def test_names_that_lead_elsewhere(folder, tmp_path, name):
    """The weights there are this model's, so that reading them would succeed."""
    elsewhere = tmp_path / "elsewhere.safetensors"
    (folder / SHARD).rename(elsewhere)
    (folder / "a").mkdir()
    write_index(folder, dict.fromkeys(load_file(elsewhere), name.format(elsewhere=elsewhere)))
    assert "names" in refusal(folder) and INDEX in refusal(folder)


def test_a_shard_that_is_missing(folder):
    write_index(folder, {"a": "other.safetensors"})
    assert "other.safetensors', which is not there" in refusal(folder)


def header(entries: dict, data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        (2**63).to_bytes(8, "little") + b"{}",
        (100).to_bytes(8, "little") + b"{}",
        header({"a": tensor([2**31, 2**31], 0, 4)}, b"\0" * 4),
        header({"a": tensor([4], 0, 2**60)}),
        header({"a": tensor([1], 4, 0)}, b"\0" * 4),
        header({"a": tensor([-1], 0, 4)}, b"\0" * 4),
        header({"a": tensor([1], 0, 4, "X1")}, b"\0" * 4),
        header({"a": 3}),
        header({"__metadata__": {"format": "tf"}, "a": tensor([1], 0, 4)}, b"\0" * 4),
        header({"__metadata__": {}, "a": tensor([1], 0, 4)}, b"\0" * 4),
        header({}),
        (400_000).to_bytes(8, "little") + b"[" * 400_000,
    ],
)
def test_headers_that_lie(folder, content):
    (folder / WHOLE).write_bytes(content)
    assert "folder" in refusal(folder) or "damaged" in refusal(folder)


def test_weights_of_another_model(folder):
    others = {f"bert.encoder.layer.{i}.weight": torch.zeros(2) for i in range(400)}
    save_file(others, folder / WHOLE, {"format": "pt"})
    assert "none of this model's" in refusal(folder) and "bert.encoder.layer.0.weight" in refusal(folder)
    (folder / WHOLE).unlink()
    torch.save(others, folder / PICKLE)
    assert "none of this model's" in refusal(folder)


class Foreign:
    def __reduce__(self):
        return (os.system, ("touch was_run",))


@pytest.mark.parametrize(
    "content",
    [[torch.zeros(2)], {"a": 3}, {3: torch.zeros(2)}, torch.zeros(2), None, {"model": {"a": torch.zeros(2)}},
     {"a": Foreign()}],
)  # fmt: skip
def test_pickles_of_other_things(folder, content, monkeypatch):
    monkeypatch.chdir(folder)
    torch.save(content, folder / PICKLE)
    assert "folder" in refusal(folder)
    assert not (folder / "was_run").exists()


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x80\x04", pickle.dumps({"a": 1}), pickle.dumps([1]), b"PK\x03\x04xx"]
)
def test_pickles_that_are_damaged(folder, content):
    (folder / PICKLE).write_bytes(content)
    assert "folder" in refusal(folder)
