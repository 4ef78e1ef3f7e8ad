"""Any value in any field of a configuration is taken, or refused in one line, before memory is taken for it.

Expected: ranges and types as the docstrings of `M2FConfig` and `config_values` state them.
"""

import json
import random
import resource
import time

import pytest
from small_models import BACKBONES, SMALL
from transformers import AutoConfig

from m2f.configuration.config_values import NUMBERS, SWITCHES, WHOLE_NUMBERS
from m2f.configuration.configuration_m2f import M2FConfig
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

FIELDS = {**SMALL, "backbone_config": BACKBONES["resnet"]}
INFINITE, NAN = float("inf"), float("nan")
NO_NUMBERS = ("12", True, None, [], [3], {}, {"a": 1})
HOSTILE = (
    None, True, False, 0, 1, -1, 2, 3, 7, 32, 10**6, 10**9, 10**18, 10**400, -(10**18), 0.0, -0.0, 0.5, 1.0, 1e308,
    NAN, INFINITE, -INFINITE, "", "12", "swin", "relu", "\x1b[2J\n<script>", "x" * 5000, [], [0], [NAN], ["a", 1],
    [[1, 2], [3]], list(range(5)), {}, {"a": 1}, {"0": "a", "2": "b"}, {0: "a", "0": "b"}, {"model_type": "swin"},
    {"model_type": ["swin"]}, {"model_type": "bert"}, {"model_type": "swin", "embed_dim": "x"}, {"__float__": "NaN"},
)  # fmt: skip


def refusal(fields) -> str | None:
    """The message with which a configuration is refused; None where it is made. Any other error is the test's."""
    try:
        M2FConfig.from_dict(json.loads(json.dumps(fields)) if "id2label" not in fields else fields)
    except (ValueError, OSError) as error:
        message = str(error)
        assert len(message) < 1500, message
        return message
    return None


@pytest.mark.parametrize("name", WHOLE_NUMBERS)
def test_whole_numbers(name):
    low, high = WHOLE_NUMBERS[name]
    for wrong in (low - 1, high + 1, 10**18, -(10**18), 10**400, 1.5, NAN, INFINITE, -INFINITE, *NO_NUMBERS):
        assert name in refusal({**FIELDS, name: wrong}), wrong


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name):
    low, high = NUMBERS[name]
    too_high = [high + 0.1] if high < INFINITE else []
    for wrong in (low - 0.1, -(10**18), 10**400, NAN, INFINITE, -INFINITE, *too_high, *NO_NUMBERS):
        assert name in refusal({**FIELDS, name: wrong}), wrong
    assert refusal({**FIELDS, name: low}) is None


@pytest.mark.parametrize("name", SWITCHES)
def test_switches(name):
    assert all(name in refusal({**FIELDS, name: wrong}) for wrong in (None, 0, 1, "yes", "false", [], {}))


REFUSED = {
    "a backbone as list": ({"backbone_config": [1]}, "backbone_config"),
    "a backbone as number": ({"backbone_config": 3}, "backbone_config"),
    "a type as list": ({"backbone_config": {"model_type": ["swin"]}}, "backbone_config.model_type"),
    "channels as text": ({"backbone_config": {"model_type": "swin", "embed_dim": "x"}}, "backbone_config"),
    "10^9 channels": ({"backbone_config": {"model_type": "swin", "embed_dim": 10**9}}, "backbone_config.embed_dim"),
    "10^4 layers": ({"backbone_config": {"model_type": "swin", "depths": [10**4] * 4}}, "backbone_config.depths"),
    "infinite": ({"backbone_config": {"model_type": "swin", "drop_path_rate": INFINITE}}, "drop_path_rate=inf"),
    "code by a file": (
        {"backbone_config": None, "backbone": "a/b", "backbone_kwargs": {"trust_remote_code": True}},
        "trust_remote_code",
    ),
    "a name as list": ({"backbone_config": None, "backbone": ["a/b"]}, "backbone and backbone_kwargs"),
    "labels as list": ({"id2label": ["a", "b"]}, "id2label=['a', 'b'] must be a mapping"),
    "labels as text": ({"id2label": "ab"}, "id2label='ab' must be a mapping"),
    "no labels": ({"id2label": {}}, "id2label={} must be a mapping"),
    "a gap": ({"id2label": {"0": "a", "2": "c"}}, "2 labels but none of id 1"),
    "from 1 on": ({"id2label": {"1": "a", "2": "c"}}, "2 labels but none of id 0"),
    "a negative id": ({"id2label": {"-1": "a", "0": "c"}}, "none of id 1"),
    "an id twice": ({"id2label": {"0": "a", "00": "c"}}, "the label 0 twice"),
    "an id as name": ({"id2label": {"cat": "0"}}, "the key 'cat'"),
    "a name as number": ({"id2label": {"0": 7}}, "id2label[0]=7"),
    "10^9 labels": ({"num_labels": 10**9}, "num_labels=1000000000"),
    "no label": ({"num_labels": 0}, "num_labels=0"),
    "labels as a word": ({"num_labels": "12"}, "num_labels='12' is no number"),
    "heads": ({"num_attention_heads": 5}, "no multiple of num_attention_heads=5"),
    "groups": ({"feature_size": 48}, "not a multiple of 32"),
    "three strides": ({"feature_strides": [4, 8, 16]}, "four whole numbers"),
    "a stride of 0": ({"feature_strides": [0, 8, 16, 32]}, "four whole numbers"),
    "strides as text": ({"feature_strides": "4816"}, "four whole numbers"),
    "an activation": ({"activation_function": "reluu"}, "activation_function='reluu'"),
    "dropout of all": ({"dropout": 1}, "below 1"),
    "things as text": ({"thing_label_ids": "01"}, "thing_label_ids='01'"),
    "things as number": ({"thing_label_ids": 1}, "thing_label_ids=1"),
    "things as words": ({"thing_label_ids": ["a"]}, "thing_label_ids=['a']"),
    "an infinite weight": ({"class_weights": [1, 1, 1, 1, 10**400]}, "must be finite"),
    "a type": ({"dtype": "float33"}, "float33"),
    "a type of whole numbers": ({"dtype": "int8"}, "dtype=torch.int8"),
    "no type but a function": ({"dtype": "load"}, "dtype="),
    "all large": ({"hidden_dim": 8192, "decoder_layers": 200}, "parameters; at most"),
    "a task as list": ({"task": ["panoptic"]}, "task=['panoptic']"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_value_and_limit(case):
    fields, words = REFUSED[case]
    message = refusal({**FIELDS, **fields})
    assert message is not None and words in message and "\n" not in message, message


def test_fields_that_are_set_later_are_checked_before_a_model_is_made():
    config = M2FConfig.from_dict(FIELDS)
    for name, value in (("num_queries", 10**18), ("backbone_config", [1]), ("id2label", {0: "a", 2: "b"})):
        changed = M2FConfig.from_dict(FIELDS)
        setattr(changed, name, value)
        with pytest.raises(ValueError, match=name):
            M2FForUniversalSegmentation(changed)
    config.dtype = "bfloat16"
    config.check()


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "swin", "embed_dim": 65_536},
        {"model_type": "swin", "num_heads": [0, 0, 0, 0]},
        {"model_type": "swin", "embed_dim": -4},
        {"model_type": "swin", "window_size": 60_000},
        {"model_type": "swin", "patch_size": 0},
        {"model_type": "resnet", "hidden_sizes": [65_536] * 4, "depths": [20] * 4},
        {"model_type": "resnet", "layer_type": "basic", "hidden_sizes": [8, 16, 24]},
        {"model_type": "convnext", "hidden_sizes": [8, 0, 24, 32]},
    ],
)
def test_a_backbone_that_cannot_be_built_is_refused_in_a_line_without_its_memory(fields):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="backbone_config") as error:
        M2FForUniversalSegmentation(M2FConfig.from_dict({**SMALL, "backbone_config": fields}))
    assert "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_brackets_in_brackets_and_other_files(tmp_path):
    """json's own recursion ends with a RecursionError at some thousands."""
    for text in ("[" * 200_000, '{"a":' * 200_000, '{"a":' + "[" * 400 + "]" * 400 + "}", "[1]", "3", "{", "\xff", ""):
        (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
        with pytest.raises((ValueError, OSError)) as error:
            M2FConfig.from_pretrained(tmp_path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_random_values_in_every_field():
    """1,000 configurations; none may take five seconds."""
    generator, names = random.Random(17), sorted({*M2FConfig(**FIELDS).to_dict(), "num_labels", "torch_dtype", "name"})
    made = 0
    for _ in range(1000):
        chosen = generator.sample(names, generator.choice((1, 1, 1, 2, 3)))
        fields = {**FIELDS, **{name: generator.choice(HOSTILE) for name in chosen}}
        start = time.monotonic()
        made += refusal(fields) is None
        assert time.monotonic() - start < 5, chosen
    assert 50 < made < 600


def test_random_values_in_a_backbone():
    generator, made = random.Random(23), 0
    for _ in range(300):
        kind = generator.choice(sorted(BACKBONES))
        names = sorted(AutoConfig.for_model(kind).to_dict())
        inner = {**BACKBONES[kind], **{name: generator.choice(HOSTILE) for name in generator.sample(names, 1)}}
        made += refusal({**SMALL, "backbone_config": {**inner, "model_type": kind}}) is None
    assert 30 < made < 270
