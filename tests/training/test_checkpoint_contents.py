"""Damages of every file of a checkpoint: a run goes on from the one before it, and says so in one line.

Two kinds: what disks, copies and people do to a file, which the manifest tells; and files that are as the manifest
says and yet are not those of a run, which only reading them tells.
"""

import errno
import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from shapes_dataset import shapes_options
from shapes_run import shapes_run

from m2f.training.checkpoint_contents import unusable_because
from m2f.training.checkpoint_store import MANIFEST, CheckpointStore, write_manifest
from m2f.training.run_folder import find_checkpoint

FILES = (
    "config.json", "model.safetensors", "preprocessor_config.json", "training_options.yaml", "optimizer.safetensors",
    "random_states.json", "training_progress.json", MANIFEST,
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A checkpoint as a run leaves it."""
    folder = tmp_path_factory.mktemp("run")
    shapes_run(folder, max_steps=1).run()
    path = folder / "checkpoints" / "step-00000001"
    assert sorted(file.name for file in path.iterdir()) == sorted(FILES)
    return path


@pytest.fixture
def copy(whole, tmp_path):
    """Makes copies of it, step by step."""

    def make(step: int = 2) -> Path:
        target = tmp_path / "checkpoints" / f"step-{step:08d}"
        if target.is_dir():
            shutil.rmtree(target)
        return shutil.copytree(whole, target)

    return make


def replaced_by(make):
    def damage(file: Path, generator: random.Random):
        file.unlink()
        make(file)

    return damage


def flipped(file: Path, generator: random.Random):
    content = bytearray(file.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    file.write_bytes(content)


def cut(file: Path, generator: random.Random):
    file.write_bytes(file.read_bytes()[: generator.randrange(file.stat().st_size)])


PHYSICAL = {
    "removed": lambda file, _: file.unlink(),
    "empty": lambda file, _: file.write_bytes(b""),
    "cut": cut,
    "flipped": flipped,
    "longer": lambda file, _: file.write_bytes(file.read_bytes() + b"\0\n{"),
    "zeros": lambda file, _: file.write_bytes(bytes(file.stat().st_size)),
    "a folder": replaced_by(lambda file: file.mkdir()),
    "a link to nothing": replaced_by(lambda file: file.symlink_to("nothing")),
    "a link to itself": replaced_by(lambda file: file.symlink_to(file)),
    "a link to a folder": replaced_by(lambda file: file.symlink_to("..")),
    "a link to a device": replaced_by(lambda file: file.symlink_to("/dev/zero")),
    "a pipe": replaced_by(lambda file: os.mkfifo(file)),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and links")
@pytest.mark.parametrize("name", FILES)
def test_damages_of_a_disk(copy, name):
    generator = random.Random(name)
    for kind, damage in PHYSICAL.items():
        folder = copy()
        damage(folder / name, generator)
        reason = unusable_because(folder)
        assert reason is not None and "\n" not in reason and len(reason) < 500, (kind, reason)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOMEM])
@pytest.mark.parametrize("name", ["config.json", "optimizer.safetensors", MANIFEST])
def test_errors_of_a_disk(copy, monkeypatch, code, name):
    folder, real = copy(), Path.stat

    def stat(path, **kwargs):
        if path.name == name:
            raise OSError(code, os.strerror(code), str(path))
        return real(path, **kwargs)

    monkeypatch.setattr(Path, "stat", stat)
    assert os.strerror(code) in unusable_because(folder)


def test_errors_while_a_file_is_read(copy, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    folder = copy()
    monkeypatch.setattr("m2f.training.checkpoint_store._sha256", fail)
    assert "Input/output error" in unusable_because(folder)


def rewritten(folder: Path, name: str, content: bytes | str):
    """A file with another content that the manifest names."""
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / MANIFEST).unlink()
    write_manifest(folder)


def with_fields(name: str, **fields):
    def damage(folder: Path):
        rewritten(folder, name, json.dumps({**json.loads((folder / name).read_text()), **fields}))

    return damage


def with_tensors(name: str, change):
    def damage(folder: Path):
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name, {"format": "pt"})
        rewritten(folder, name, (folder / name).read_bytes())

    return damage


def renamed(tensors):
    name = next(iter(tensors))
    tensors["other"] = tensors.pop(name)


def lying_header(folder: Path):
    """Bytes beyond the file's end."""
    content = (folder / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    next(entry for name, entry in header.items() if name != "__metadata__")["data_offsets"][1] = 2**60
    text = json.dumps(header).encode()
    rewritten(folder, "model.safetensors", len(text).to_bytes(8, "little") + text + content[end:])


def with_index(weight_map=None, **others):
    """The weights under another name, and an index of them."""

    def damage(folder: Path):
        names = list(load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        files = dict.fromkeys(names, "model-00001-of-00001.safetensors")
        found = weight_map(files) if callable(weight_map) else weight_map
        rewritten(folder, "model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": found, **others}))

    return damage


def random_states(**fields):
    def damage(folder: Path):
        states = json.loads((folder / "random_states.json").read_text())
        rewritten(folder, "random_states.json", json.dumps([{**states[0], **fields}]))

    return damage


def manifest(files):
    def damage(folder: Path):
        (folder / MANIFEST).write_text(json.dumps({"files": files}))

    return damage


PROGRESS = "training_progress.json"
LOGICAL = {
    "a manifest of nothing": manifest({}),
    "a manifest as list": manifest([1]),
    "a manifest of numbers": manifest({name: 3 for name in FILES}),
    "a manifest that climbs": manifest({name: {"size": 0, "sha256": ""} for name in (*FILES, "../../x")}),
    "no model": lambda folder: ((folder / "model.safetensors").unlink(), rewritten(folder, "x", b"")),
    "a header that lies": lying_header,
    "a weight less": with_tensors("model.safetensors", lambda tensors: tensors.pop(next(iter(tensors)))),
    "a weight of another name": with_tensors("model.safetensors", renamed),
    "a weight of another shape": with_tensors(
        "model.safetensors", lambda tensors: tensors.update({next(iter(tensors)): torch.zeros(3)})
    ),
    "no weight": with_tensors("model.safetensors", dict.clear),
    "an index without a name": with_index(lambda files: dict(list(files.items())[1:])),
    "an index of nothing": with_index({}),
    "an index as list": with_index([1]),
    "an index of numbers": with_index(lambda files: dict.fromkeys(files, 3)),
    "an index without metadata": with_index(lambda files: files, metadata=None),
    "an index that climbs": with_index(lambda files: dict.fromkeys(files, "../step-00000001/model.safetensors")),
    "an absolute index": with_index(lambda files: dict.fromkeys(files, "/etc/hostname")),
    "a missing shard": with_index(lambda files: dict.fromkeys(files, "model-00002-of-00002.safetensors")),
    "another architecture": with_fields("config.json", hidden_dim=64),
    "no number of queries": with_fields("config.json", num_queries="12"),
    "another kind of processor": with_fields("preprocessor_config.json", size="large"),
    "a step as text": with_fields(PROGRESS, step="3"),
    "a negative step": with_fields(PROGRESS, step=-3),
    "an unknown field": with_fields(PROGRESS, other=3),
    "a meter as list": with_fields(PROGRESS, meter=[1]),
    "a meter without sums": with_fields(PROGRESS, meter={"count": 1}),
    "an optimizer of another model": with_tensors("optimizer.safetensors", renamed),
    "moments of another shape": with_tensors(
        "optimizer.safetensors", lambda tensors: tensors.update({name: torch.zeros(77) for name in tensors})
    ),
    "states as mapping": lambda folder: rewritten(folder, "random_states.json", "{}"),
    "no states": lambda folder: rewritten(folder, "random_states.json", "[]"),
    "a state without its key": random_states(numpy={}),
    "a short state": random_states(python=[3, [1, 2], None]),
    "a state of letters": random_states(torch="xyz"),
    "a state of a few bytes": random_states(torch="00ff"),
    "options as list": lambda folder: rewritten(folder, "training_options.yaml", "[1]"),
    "an unknown option": lambda folder: rewritten(folder, "training_options.yaml", "learning_rat: 1"),
}
for _name in FILES[:-1]:
    for _kind, _content in {"brackets": "[" * 200_000, "nothing": "", "a number": "3", "bytes": b"\xff\xfe\0"}.items():
        LOGICAL[f"{_kind} in {_name}"] = lambda folder, n=_name, c=_content: rewritten(folder, n, c)
LOGICAL.pop("nothing in training_options.yaml")  # all options as they are by default


@pytest.mark.parametrize("case", LOGICAL)
def test_files_of_somebody_else(copy, case):
    folder = copy()
    LOGICAL[case](folder)
    state = random.getstate(), torch.get_rng_state()
    reason = unusable_because(folder)
    assert reason is not None and "\n" not in reason and len(reason) < 1000, reason
    assert random.getstate() == state[0] and torch.equal(torch.get_rng_state(), state[1])


def test_the_one_before_is_taken_and_one_line_says_so(copy, tmp_path):
    before, options = copy(1), shapes_options(tmp_path)
    for damage in (PHYSICAL["a link to itself"], PHYSICAL["a folder"], cut):
        damage(copy(2) / "optimizer.safetensors", random.Random(3))
        lines: list[str] = []
        assert find_checkpoint(options, lines.append) == before
        assert len(lines) == 1 and "step-00000002 is broken and passed over" in lines[0]


def test_whole_ones_and_shards(copy):
    folder = copy()
    assert unusable_because(folder) is None
    with_index(lambda files: files)(folder)
    assert unusable_because(folder) is None


@pytest.mark.parametrize("kind", ["file", "link", "loop"])
def test_what_is_no_folder_is_passed_over_and_does_not_stop_the_next(tmp_path, kind):
    """It is removed as one that lies after the next, or is too old; where a link leads stays."""
    place, elsewhere = tmp_path / "checkpoints" / "step-00000002", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    place.parent.mkdir()
    place.touch() if kind == "file" else place.symlink_to(place if kind == "loop" else elsewhere)
    lines: list[str] = []
    store = CheckpointStore(place.parent, keep=1, say=lines.append)
    assert store.latest() is None and len(lines) == 1
    for name in (".writing-step-00000001", ".removed-step-00000002"):
        (place.parent / name).symlink_to(elsewhere)
    store.save(1, lambda folder: (folder / "x").write_text("x"))
    assert [path.name for path in place.parent.iterdir()] == ["step-00000001"] and (elsewhere / "kept").exists()
