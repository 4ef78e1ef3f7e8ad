import pytest

from m2f.training.option_values import nearest, read_mapping, read_options, resolve_options, write_options


@pytest.mark.parametrize("start", [{"model": "folder"}, {"scratch": "config.json"}])
def test_a_presets_backbone_gives_way_to_another_start(start):
    options = resolve_options({"preset": "coco-instance-swin-l", **start})
    assert (options.backbone, options.num_queries, options.drop_path_rate) == (None, None, None)
    assert options.max_steps == 737_500
    assert resolve_options({"preset": "coco-instance-swin-l"}).num_queries == 200


def test_what_is_written_is_read_again(tmp_path):
    options = resolve_options(
        {"preset": "coco-instance-r50", "data": "häuser", "learning_rate": 1e-05, "log_with": ("tensorboard",)}
    )
    write_options(options, tmp_path / "options.yaml")
    assert resolve_options({}, read_options(tmp_path / "options.yaml")) == options


def test_numbers_without_a_dot_are_numbers(tmp_path):
    """yaml 1.1 reads 1e-4 as text and 1 as an int."""
    file = tmp_path / "options.yaml"
    file.write_text("learning_rate: 1e-4\nclip_norm: 1\n")
    values = read_options(file)
    assert values == {"learning_rate": 1e-4, "clip_norm": 1.0}
    assert all(type(value) is float for value in values.values())


def test_the_options_of_a_training_have_the_names_of_other_commands_too(tmp_path):
    (tmp_path / "a.yaml").write_text("dtype: bfloat16\nformat: yolo\nbatch-size: 2\n")
    assert read_options(tmp_path / "a.yaml") == {"mixed_precision": "bf16", "data_format": "yolo", "batch_size": 2}


def test_names_are_those_of_flags_with_or_without_dashes(tmp_path):
    (tmp_path / "a.yaml").write_text("batch-size: 1\n--max-steps: 2\nseed: 3\n")
    assert read_mapping(tmp_path / "a.yaml") == {"batch_size": 1, "max_steps": 2, "seed": 3}
    assert nearest("zzz", ["seed"], "m2f x") == "m2f x --help lists all"
