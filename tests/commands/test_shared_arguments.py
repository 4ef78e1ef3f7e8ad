"""One name has one meaning in all commands: looked up in the parsers that the commands build."""

import argparse
from pathlib import Path

import pytest

from m2f.cli import COMMANDS, command_parser
from m2f.commands.shared_arguments import SHARED_ORDER, count, count_or_zero

# Where the help names the same place in another way, because the file or folder is another kind of thing.
METAVARS = {"--output": {"FOLDER", "FILE"}, "--out": {"FOLDER", "FILE"}, "--json": {None, "FILE"}}
# Free text in one command, and the few names that it knows in another.
OWN_CHOICES = {"--dataset", "--backbone", "--format"}
# What a command may say differently: what its output is, what its workers are, what it computes in.
OWN_HELP = {"--output", "--out", "--workers", "--dtype", "--json", "--dry-run", "--split", "--task", "--dataset"}
OWN_HELP |= {
    "--threshold",
    "--max-detections",
    "--validation-fraction",
    "--format",
    "--size",
    "--batch",
    "--overwrite",
}


@pytest.fixture(scope="module")
def parsers() -> dict[str, argparse.ArgumentParser]:
    return {name: command_parser(name) for name in COMMANDS}


def flags_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {flag: action for action in parser._actions for flag in action.option_strings}


def shown(action: argparse.Action) -> str | None:
    """What stands for its value in the help."""
    return action.metavar or (f"{{{','.join(action.choices)}}}" if action.choices else None)


def test_the_same_flag_has_the_same_metavar_and_help(parsers):
    seen: dict[str, tuple[str, argparse.Action]] = {}
    for name, parser in parsers.items():
        for flag, action in flags_of(parser).items():
            other, first = seen.setdefault(flag, (name, action))
            allowed = METAVARS.get(flag, {shown(first)})
            same = shown(action) in allowed and shown(first) in allowed
            assert same or flag in OWN_CHOICES, (flag, name, other)
            # The options of a training say more about what the model is then trained with.
            if flag not in OWN_HELP and "train" not in (name, other):
                assert action.help == first.help or action.help == argparse.SUPPRESS, (flag, name, other)


def test_every_help_ends_with_the_shared_flags_in_one_order(parsers):
    shared = ["--" + name.replace("_", "-") for name in SHARED_ORDER]
    for name, parser in parsers.items():
        found = [action.option_strings[0] for action in parser._actions if action.option_strings]
        found = ["--dtype" if flag == "--mixed-precision" else flag for flag in found]
        last = [flag for flag in found if flag in shared]
        assert last == [flag for flag in shared if flag in last], name
        assert found[len(found) - len(last) :] == last, name


def test_commands_that_write_or_send_have_a_dry_run_and_all_but_two_a_file_of_options(parsers):
    have = {name: set(flags_of(parser)) for name, parser in parsers.items()}
    assert {name for name, flags in have.items() if "--dry-run" not in flags} == {"demo", "env", "completion"}
    assert {name for name, flags in have.items() if "--config" not in flags} == {"env", "completion"}
    assert all("--debug" in flags for flags in have.values())


@pytest.mark.parametrize(
    ("command", "words", "name", "value"),
    [
        ("bench", ["--out", "x.json", "--batch", "3"], "batch_size", [3]),
        ("bench", ["--out", "x.json"], "output", Path("x.json")),
        ("val", ["c", "d", "--cpu"], "device", "cpu"),
        ("val", ["c", "d", "--mixed-precision", "bf16"], "mixed_precision", "bf16"),
        ("val", ["c", "d", "--dtype", "bfloat16"], "mixed_precision", "bf16"),
        ("val", ["c", "d", "--data-format", "x"], "format", "x"),
        ("train", ["--format", "x"], "data_format", "x"),
        ("train", ["--mixed-precision", "bf16"], "mixed_precision", "bf16"),
        ("train", ["--cpu"], "cpu", True),
        ("check", ["d", "--json", "r.json"], "json", "r.json"),
    ],
)
def test_old_spellings_go_on_working(parsers, command, words, name, value):
    assert getattr(parsers[command].parse_args(words), name) == value


def test_counts():
    assert count("3") == 3 and count_or_zero("0") == 0
    for kind, text in ((count, "0"), (count, "x"), (count_or_zero, "-1"), (count, "1.5")):
        with pytest.raises(argparse.ArgumentTypeError, match="whole number"):
            kind(text)


def test_every_help_has_the_exit_codes(parsers):
    help_of = {name: " ".join(parser.format_help().split()) for name, parser in parsers.items()}
    assert all("exit codes: 0 " in text and "; 2 an error, in one line" in text for text in help_of.values())
    with_findings = {name for name, text in help_of.items() if "; 1 " in text}
    assert with_findings == {"predict", "check", "train"}
