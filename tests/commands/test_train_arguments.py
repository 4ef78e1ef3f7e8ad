import argparse
import dataclasses

import pytest

from m2f.cli import command_parser
from m2f.commands.train_arguments import add_option_arguments, options_from_arguments
from m2f.training.training_options import TrainingOptions


def parse(*words: str) -> TrainingOptions:
    parser = argparse.ArgumentParser(prog="m2f train")
    add_option_arguments(parser)
    return options_from_arguments(parser.parse_args(words))


# A value other than the default for every field, as a person writes it; the dataclass's checks allow them together.
WRITTEN = {
    "preset": "ade20k-instance-r50",
    "milestones": "3 7",
    "schedule": "multistep",
    "mixed_precision": "bf16",
    "on_broken_image": "skip",
    "max_steps": "9",
    "batch_size": "6",
    "gradient_accumulation_steps": "3",
    "log_with": "tensorboard wandb",
    "data_options": "task=instance",
    "device": "cpu",  # as cpu: true says
    "dataset": "one two",
    "class_weights": "1 0.5",
    "mask_annealing": "2 7",
}
# Fields that contradict some of the others.
ALONE = ("freeze_backbone", "mask_annealing")


def written(entry: dataclasses.Field) -> str:
    if entry.name in WRITTEN:
        return WRITTEN[entry.name]
    kind = str(entry.type)
    return "7" if "int" in kind else "0.25" if "float" in kind else "word"


@pytest.mark.parametrize("names", [None, ALONE])
def test_every_field_is_a_flag_and_a_yaml_key_of_the_same_meaning(names, tmp_path):
    words, lines = [], []
    fields = [entry for entry in dataclasses.fields(TrainingOptions) if (entry.name in ALONE) == (names is ALONE)]
    for entry in fields:
        flag = "--" + entry.name.replace("_", "-")
        if "bool" in str(entry.type):
            new = not entry.default
            words.append(flag if new else "--no-" + flag[2:])
            lines.append(f"{entry.name}: {str(new).lower()}")
            continue
        words += [flag, *written(entry).split()]
        is_list = "tuple" in str(entry.type)
        lines.append(f"{entry.name}: " + (f"[{', '.join(written(entry).split())}]" if is_list else written(entry)))
    file = tmp_path / "options.yaml"
    file.write_text("\n".join(lines))
    from_flags, from_file = parse(*words), parse("--config", str(file))
    assert from_flags == from_file
    unchanged = [entry.name for entry in fields if getattr(from_flags, entry.name) == entry.default]
    assert not unchanged


def test_flags_win_over_the_file_over_the_preset_over_the_defaults(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("preset: cityscapes-panoptic-r50\nbatch_size: 8\nlearning_rate: 2.0e-4\n")
    options = parse("--config", str(file), "--learning-rate", "3e-4")
    # From the flag, the file, the preset (90,000 steps, fp16) and the defaults.
    assert options.learning_rate == 3e-4
    assert options.batch_size == 8
    assert (options.max_steps, options.mixed_precision) == (90_000, "fp16")
    assert options.weight_decay == 0.05


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lerning_rate: 1", ["options.yaml", "'lerning_rate'", "did you mean learning_rate"]),
        ("max_steps: many", ["options.yaml", "max_steps is 'many'", "int"]),
        ("max_steps: 1.5", ["max_steps is 1.5", "int"]),
        ("compile: 1", ["compile is 1", "true or false"]),
        ("learning_rate: true", ["learning_rate is True", "float"]),
        ("learning_rate: fast", ["learning_rate is 'fast'", "float"]),
        ("milestones: 3", ["milestones is 3", "a list"]),
        ("milestones: [a]", ["milestones is 'a'", "int"]),
        ("seed: null", ["seed is None", "int"]),
        ("- max_steps", ["lines of the form", "list"]),
        ("a: [", ["no yaml file"]),
        ("preset: coco-instance-r5", ["unknown preset 'coco-instance-r5'", "coco-instance-r50"]),
    ],
)
def test_a_wrong_file_is_an_error_that_says_what_and_what_else(tmp_path, text, words):
    file = tmp_path / "options.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        parse("--config", str(file))
    assert all(word in str(error.value) for word in words), error.value


def test_an_empty_file_has_no_options(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("# nothing\n")
    assert parse("--config", str(file)) == TrainingOptions()


def test_an_unknown_flag_gets_the_nearest_names(capsys):
    with pytest.raises(SystemExit) as exit:
        command_parser("train").parse_args(["--lerning-rate", "1"])
    assert exit.value.code == 2
    assert "--lerning-rate: did you mean --learning-rate" in capsys.readouterr().err


def test_help_names_defaults():
    parser = argparse.ArgumentParser()
    add_option_arguments(parser)
    text = " ".join(parser.format_help().split())
    assert "--learning-rate X of everything but the backbone (0.0001)" in text
    assert "--schedule {poly,multistep}" in text
