"""Files of options, with a parser made here; every command has its own file in one test."""

import argparse
from pathlib import Path

import pytest

from m2f.cli import command_parser
from m2f.commands.config_file import parse_with_config
from m2f.commands.shared_arguments import add_shared_arguments, count
from m2f.image_processing.flat_yaml import read_flat_yaml


@pytest.fixture
def parse(tmp_path):
    """Parses words together with the text of a file."""

    def parse(text: str, *words: str) -> argparse.Namespace:
        file = tmp_path / "options.yaml"
        file.write_text(text)
        parser = argparse.ArgumentParser(prog="m2f fake", allow_abbrev=False)
        parser.add_argument("inputs", nargs="+")
        parser.add_argument("--needed", required=True)
        parser.add_argument("--rate", type=float, default=0.5)
        parser.add_argument("--split", action="append")
        parser.add_argument("--task", choices=("one", "two"))
        settings = {"type": count, "default": 1}
        add_shared_arguments(parser, config={}, device={}, cpu={}, batch_size=settings, output={}, overwrite={})
        return parse_with_config(parser, ["--config", str(file), *words])

    return parse


FILE = """
inputs: [a, b]
needed: yes it is
batch-size: 2
--rate: 1e-3
split: [train, val]
overwrite: true
out: folder
"""


def test_the_file_stands_in_for_what_is_not_given(parse):
    args = parse(FILE)
    assert (args.inputs, args.needed) == (["a", "b"], "yes it is")
    assert (args.batch_size, args.rate, args.split, args.overwrite) == (2, 1e-3, ["train", "val"], True)
    assert (args.output, args.device, args.task) == (Path("folder"), None, None)  # the last two by default


def test_the_command_line_wins(parse):
    args = parse(FILE, "x", "--needed=n", "--batch-size=3", "--split=test", "--no-overwrite", "--output=other")
    assert (args.inputs, args.needed) == (["x"], "n")
    assert (args.batch_size, args.split, args.overwrite) == (3, ["test"], False)
    assert args.output == Path("other")


def test_one_value_is_a_list_of_one_and_cpu_is_a_device(parse):
    args = parse(FILE.replace("[train, val]", "train") + "cpu: true\n")
    assert args.split == ["train"] and args.device == "cpu"
    assert parse(FILE + "cpu: true\n", "--device=cuda").device == "cuda"
    assert parse(FILE + "cpu: false\n").device is None


# 300 bytes that stand for 10^9 words.
BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bach_size: 2", ["options.yaml", "'bach_size'", "did you mean batch_size?"]),
        ("debug: true", ["unknown option 'debug'", "m2f fake --help lists all"]),
        ("config: x", ["unknown option 'config'"]),
        ("task: three", ["task is 'three'", "one, two"]),
        ("device: [cpu]", ["device is ['cpu']", "one value"]),
        ("cpu: 1", ["cpu is 1", "true or false"]),
        ("- a", ["lines of the form"]),
        ("a: [", ["no yaml file"]),
        ("!!python/object/apply:os.system ['true']", ["no yaml file"]),  # what yaml.load would run
        ("batch_size: 1\n--batch-size: 2", ["'batch_size' twice"]),
        ("rate: 1\nrate: 2", ["the key 'rate' twice"]),
        ("a: &x [1]\nb: *x", ["an alias (*)"]),
        (BOMB, ["an alias (*)"]),
        ("[" * 5000, ["more than 4 levels"]),
        ("a: " + "[" * 5000, ["more than 4 levels"]),
        ("split: [[[1]]]", ["split is [[1]]; one value"]),
        ("rate: [" + "1," * 9999 + "1]", ["rate is [1, 1, 1, 1, 1, 1, ...]; one value"]),
        (f"task: {'x' * 9999}", ["...", "one, two"]),
        ("#" * (2 << 20), ["more than 1 MiB"]),
        ("rate: 2026-13-40", ["no yaml file"]),
        (f"rate: {'9' * 5000}", ["no yaml file"]),
    ],
)
def test_what_does_not_fit_is_named(parse, line, words):
    with pytest.raises(ValueError) as error:
        parse(line)
    assert all(word in str(error.value) for word in words), error.value
    assert len(str(error.value)) < 600


def test_a_device_is_no_file_of_options(parse):
    with pytest.raises(ValueError, match="/dev/zero is no file of options: it has more than 1 MiB"):
        read_flat_yaml("/dev/zero")


def test_a_flag_without_a_file_is_the_parsers_to_complain_about(capsys):
    for words in (["--config"], ["--config", "--"], ["--config", "--json"]):
        with pytest.raises(SystemExit):
            parse_with_config(command_parser("check"), words)
        assert "m2f check: error: argument --config: expected one argument" in capsys.readouterr().err


@pytest.mark.parametrize(("old", "new"), [("1e-3", "fast"), ("batch-size: 2", "batch-size: 0")])
def test_a_value_of_another_type_is_named(parse, old, new):
    with pytest.raises(ValueError, match="rate is 'fast'; float is needed|batch_size: '0' is not a whole number"):
        parse(FILE.replace(old, new))


@pytest.mark.parametrize(
    ("command", "text", "expected"),
    [
        ("predict", "inputs: [a]\nthreshold: 0.3\ndtype: bfloat16", {"threshold": 0.3, "dtype": "bfloat16"}),
        ("val", "checkpoint: c\ndata: d\ndtype: bfloat16\nworkers: 0", {"mixed_precision": "bf16", "workers": 0}),
        ("check", "data: d\nsplit: val\njson: true", {"data": "d", "split": ["val"], "json": True}),
        ("convert", "source: a\ntarget: b\nto: m2f\n", {"source": "a", "target": Path("b"), "to": "m2f"}),
        ("push", "folder: a\nrepository: b/c\ndataset: d\n", {"repository": "b/c", "dataset": ["d"]}),
        ("bench", "size: 64x96\nbatch_size: [1, 2]\n", {"size": [(64, 96)], "batch_size": [1, 2]}),
    ],
)
def test_every_command_takes_its_own(tmp_path, command, text, expected):
    (tmp_path / "a.yaml").write_text(text)
    args = parse_with_config(command_parser(command), [f"--config={tmp_path / 'a.yaml'}"])
    assert {name: getattr(args, name) for name in expected} == expected
