"""What is wrong with a checkpoint is said in one line, by every command that takes one."""

import json
from pathlib import Path

import pytest
from small_models import small_model

from m2f.checkpoints.checkpoint_config import read_config
from m2f.cli import main
from m2f.image_processing.image_processing_m2f import M2FImageProcessor

NUCLEI = Path(__file__).parents[2] / "examples" / "nuclei"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    small_model(task="instance").save_pretrained(folder)
    M2FImageProcessor(task="instance").save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(saved, tmp_path) -> Path:
    """A copy, to be damaged."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in saved.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def with_fields(**fields):
    def write(folder: Path):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return write


def truncated(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def climbing(folder: Path):
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "../../etc/x"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


DAMAGES = {
    "missing": (lambda folder: [file.unlink() for file in folder.iterdir()] and folder.rmdir(), "there is no "),
    "empty": (lambda folder: [file.unlink() for file in folder.iterdir()], "it has no config.json"),
    "no json": (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON file"),
    "a list": (lambda folder: (folder / "config.json").write_text("[1]"), "holds no fields, but a list"),
    "another model": (with_fields(model_type="bert", architectures=["Bert"]), "'bert' (Bert); m2f or mask2former"),
    "newer": (with_fields(m2f_version="999.0"), "was written by m2f 999.0, and m2f"),
    "a word for a number": (with_fields(num_queries="many"), "num_queries='many' is no number"),
    "a backbone as list": (with_fields(backbone_config=[1]), "backbone_config=[1]"),
    "10^18 queries": (with_fields(num_queries=10**18), "num_queries=1000000000000000000 must be in 1..10000"),
    "a gap in the labels": (with_fields(id2label={"0": "a", "2": "b"}), "id2label has 2 labels but none of id 1"),
    "brackets": (lambda folder: (folder / "config.json").write_text("[" * 200_000), "too many brackets"),
    "brackets in the processor": (
        lambda folder: (folder / "preprocessor_config.json").write_text("[" * 200_000),
        "image processor's file",
    ),
    "a processor of words": (
        lambda folder: (folder / "preprocessor_config.json").write_text('{"do_resize": "yes"}'),
        "do_resize must be true or false, got 'yes'",
    ),
    "an index that climbs": (climbing, "names '../../etc/x', which is no file beside it"),
    "truncated": (truncated, "damaged"),
    "broken processor": (lambda folder: (folder / "preprocessor_config.json").write_text("{"), "not a valid JSON"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_command_says_what_is_wrong_in_one_line(checkpoint, tmp_path, capsys, damage):
    spoil, words = DAMAGES[damage]
    spoil(checkpoint)
    card = ["--license=mit", "--dataset=d", "--base-model=none"]
    commands = {
        "predict": [str(NUCLEI / "val"), f"--checkpoint={checkpoint}", f"--output={tmp_path / 'out'}", "--cpu"],
        "val": [str(checkpoint), str(NUCLEI), "--cpu", "--workers=0", "--dry-run"],
        "convert": [str(checkpoint), str(tmp_path / "converted")],
        "push": [str(checkpoint), "me/model", "--dry-run", *card],
    }
    for name, arguments in commands.items():
        assert main([name, *arguments]) == 2, name
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"m2f {name}: error: ")]
        assert len(errors) == 1 and words in errors[0], (name, errors)
    assert not (tmp_path / "out").exists() and not (tmp_path / "converted").exists()


def test_fields_of_a_whole_one(saved):
    assert read_config(str(saved))["task"] == "instance"
