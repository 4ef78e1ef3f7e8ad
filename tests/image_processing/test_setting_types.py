"""Any value in any setting of a processor's file is taken, or refused in one line, before an image is made of it.

Expected: types and ranges as `M2FImageProcessorKwargs` and `setting_types` state them.
"""

import json
import random

import numpy as np
import pytest

from m2f.image_processing.image_processing_m2f import M2FImageProcessor

FILE = "preprocessor_config.json"
FIELDS = {**M2FImageProcessor(size={"shortest_edge": 32, "longest_edge": 64}).to_dict()}
INFINITE, NAN = float("inf"), float("nan")
HOSTILE = (
    None, True, False, 0, 1, -1, 2, 3, 32, 10**6, 10**9, 10**18, 10**400, -(10**18), 0.0, 0.5, 1.0, 1e308, NAN,
    INFINITE, -INFINITE, "", "yes", "12", "panoptic", "\x1b[2J", "x" * 5000, [], [0], [0.5, 0.5], [1, 2, 3], [NAN] * 3,
    ["a", 1], [[1, 2], [3]], list(range(500)), {}, {"a": 1}, {"height": 10**9, "width": 10**9}, {"height": "32"},
    {"shortest_edge": -1}, {"shortest_edge": NAN, "longest_edge": INFINITE}, {"longest_edge": 10**9},
)  # fmt: skip


@pytest.fixture
def refusal(tmp_path):
    """The message with which a file of settings is refused; None where it is taken. Any other error is the test's."""

    def of(content) -> str | None:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / FILE).write_text(text, encoding="utf-8")
        try:
            M2FImageProcessor.from_pretrained(tmp_path)
        except (ValueError, OSError) as error:
            assert len(str(error)) < 1500 and "\n" not in str(error), error
            return str(error)
        return None

    return of


REFUSED = {
    "a word for a switch": ({"do_resize": "yes"}, "do_resize must be true or false, got 'yes'"),
    "a number for a switch": ({"do_pad": 1}, "do_pad must be true or false, got 1"),
    "two means": ({"image_mean": [0.5, 0.5]}, "image_mean has 2 values"),
    "a mean as text": ({"image_mean": "0.5"}, "image_mean"),
    "a deviation of 0": ({"image_std": [0, 1, 1]}, "image_std must be positive"),
    "a negative deviation": ({"image_std": -1}, "image_std must be positive"),
    "an infinite deviation": ({"image_std": [1, 1, INFINITE]}, "image_std must hold finite numbers"),
    "a deviation beyond floats": ({"image_std": [1, 1, 10**400]}, "image_std must hold finite numbers"),
    "a size as list of three": ({"size": [1, 2, 3]}, "size must be one edge, or height and width"),
    "a size as words": ({"size": "large"}, "size must have edges"),
    "a negative size": ({"size": {"height": -1, "width": 32}}, "at least 1 and at most 16384"),
    "a size of 10^9": ({"size": {"height": 10**9, "width": 32}}, "at least 1 and at most 16384"),
    "a longest edge of 10^9": ({"size": {"longest_edge": 10**9}}, "at least 1 and at most 16384"),
    "half a pixel": ({"size": {"shortest_edge": 0.5}}, "at least 1 and at most 16384"),
    "a size of other keys": ({"size": {"area": 3}}, "size has the keys ['area']"),
    "a padded size of 10^9": ({"pad_size": {"height": 10**9, "width": 10**9}}, "pad_size must have edges"),
    "a divisor of 10^9": ({"size_divisor": 10**9}, "size_divisor must be a whole number of 0 to 16384"),
    "a divisor as text": ({"size_divisor": "32"}, "size_divisor must be a whole number"),
    "a filter": ({"resample": 77}, "resample must be a whole number of 0 to 5"),
    "a factor as text": ({"rescale_factor": "1/255"}, "rescale_factor"),
    "a factor of 0": ({"rescale_factor": 0}, "rescale_factor must be a positive number"),
    "a threshold as text": ({"panoptic_threshold": "0.5"}, "panoptic_threshold must be a number"),
    "a threshold above 1": ({"panoptic_threshold": 1.5}, "panoptic_threshold must be in [0, 1]"),
    "no threshold": ({"panoptic_threshold": NAN}, "panoptic_threshold"),
    "things as words": ({"thing_label_ids": ["a"]}, "thing_label_ids must be a list"),
    "things as number": ({"thing_label_ids": 3}, "thing_label_ids must be a list"),
    "labels as text": ({"num_labels": "3"}, "num_labels must be a whole number"),
    "a task as list": ({"task": ["panoptic"]}, "task must be one of"),
    "a tile as text": ({"tile": "256"}, "tile must be a whole number"),
    "white as list": ({"white_level": [4095]}, "white_level must be"),
    "white beyond floats": ({"white_level": 10**400}, "white_level must be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_value_and_limit(refusal, case):
    fields, words = REFUSED[case]
    message = refusal({**FIELDS, **fields})
    assert message is not None and words in message, message


def test_files_of_another_kind(refusal, tmp_path):
    for text in ("[1]", "3", '"a"', "null", "{", "", "[" * 200_000, '{"size":' * 200_000):
        assert refusal(text) is not None
    (tmp_path / "config.json").write_text("[" * 200_000)
    fields = {name: value for name, value in FIELDS.items() if name != "task"}
    assert "config.json is no json file" in refusal(fields)
    (tmp_path / "config.json").write_text("[1]")
    assert "holds no fields" in refusal(fields)


def test_a_longest_edge_that_only_limits_may_be_any(refusal):
    """10^9 stands for none in files."""
    assert refusal({**FIELDS, "size": {"shortest_edge": 32, "longest_edge": 10**9}}) is None


def test_random_values_in_every_setting(refusal, tmp_path):
    """500 files; one that is taken prepares an image, or says in a line why it does not."""
    generator, taken = random.Random(29), 0
    image = np.zeros((20, 30, 3), np.uint8)
    names = sorted(M2FImageProcessor.valid_kwargs.__annotations__)
    for number in range(500):
        chosen = generator.sample(names, generator.choice((1, 1, 2)))
        fields = {**FIELDS, **{name: generator.choice(HOSTILE) for name in chosen}}
        if refusal(fields) is not None:
            continue
        taken += 1
        if number % 10 == 0:
            try:
                M2FImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")
            except (ValueError, OSError) as error:
                assert len(str(error)) < 1500, (error, chosen)
    assert 60 < taken < 450
