import json

import pytest
from shapes_dataset import ShapesDataset, shapes_model, shapes_options
from shapes_run import fresh_accelerate

from m2f.commands.train import dry_run_lines, open_datasets
from m2f.training.class_weights import class_weights_of, weight_entries
from m2f.training.option_values import read_options, resolve_options
from m2f.training.starting_point import starting_model
from m2f.training.training_options import TrainingOptions
from m2f.training.training_setup import make_accelerator, prepared_state

NAMES = {0: "car", 1: "traffic light", 2: "a=b"}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (("1", "2.5", "0"), [1, 2.5, 0]),
        (("traffic light=0.5", "a=b=3"), [1, 0.5, 3]),
        (("2=7", "car = 2"), [2, 1, 7]),  # by the id
        ((), None),
    ],
)
def test_weights_by_order_and_by_name(entries, expected):
    assert class_weights_of(entries, NAMES) == expected


@pytest.mark.parametrize("content", [[1, 2.5, 1], {"traffic light": 2.5}, {"1": 2.5}])
def test_a_file_and_a_key_of_the_option_file_hold_the_same(content, tmp_path):
    path = tmp_path / "weights.json"
    path.write_text(json.dumps(content))
    options = tmp_path / "options.yaml"
    options.write_text(json.dumps({"class_weights": content}))
    for given in ({"class_weights": str(path)}, {"class_weights": [str(path)]}, read_options(options)):
        assert class_weights_of(resolve_options(given).class_weights, NAMES) == [1, 2.5, 1]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (("1", "2"), "2 numbers.*3 classes"),
        (("cat=1",), "'cat'.*did you mean car"),
        (("3=1",), "'3'"),
        (("car=1", "2"), "2 beside car=1"),
        (("car=1", "0=2"), "0 twice"),
        (("car=x",), "'car=x'"),
        (("1", "1", "-1"), "'-1'.*>= 0"),
        (("1", "1", "nan"), "'nan'"),
        (("0", "0", "0"), "all 0"),
    ],
)
def test_weights_that_do_not_fit_are_errors_that_say_why(entries, words):
    with pytest.raises(ValueError, match=words):
        class_weights_of(entries, NAMES)


def test_two_classes_of_one_name_are_told_apart_by_their_ids():
    with pytest.raises(ValueError, match=r"classes \[0, 1\]"):
        class_weights_of(("car=2",), {0: "car", 1: "car"})
    assert class_weights_of(("1=2",), {0: "car", 1: "car"}) == [1, 2]


@pytest.mark.parametrize("value", [1.5, True, None, [True], [[1, 2]], {"car": [1]}])
def test_what_is_no_list_of_weights_is_an_error(value, tmp_path):
    if not isinstance(value, dict):
        with pytest.raises(ValueError, match="a list such as"):
            weight_entries(value)
    path = tmp_path / "weights.yaml"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match="class_weights|no class weights"):
        class_weights_of((str(path),), NAMES)


def test_the_model_of_a_run_has_the_weights_in_loss_and_configuration(tmp_path):
    """Without the option it keeps those that it came with, which a new classifier does not."""
    fresh_accelerate()
    options = shapes_options("unused", class_weights=("green=3",))
    model = prepared_state(options, shapes_model(), make_accelerator(options)).plain_model
    assert model.config.class_weights == [1, 3, 1]
    assert model.criterion.empty_weight.tolist() == pytest.approx([1, 3, 1, 0.1])
    model.save_pretrained(tmp_path)
    kept = starting_model(TrainingOptions(model=str(tmp_path)), ShapesDataset())
    state = prepared_state(shapes_options("unused"), kept, make_accelerator(options))
    assert state.plain_model.criterion.empty_weight.tolist() == pytest.approx([1, 3, 1, 0.1])
    new = starting_model(TrainingOptions(model=str(tmp_path), reset_classifier=True), ShapesDataset())
    assert new.config.class_weights is None
    assert new.criterion.empty_weight.tolist() == pytest.approx([1, 1, 1, 0.1])


def test_weights_that_do_not_fit_the_dataset_are_found_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr("m2f.commands.train.open_dataset", lambda *arguments, **others: ShapesDataset())
    for opened in (open_datasets, dry_run_lines):
        with pytest.raises(ValueError, match="'cat'"):
            opened(TrainingOptions(data="shapes", validation_split="none", class_weights=("cat=2",), resume="never"))
