import pytest

from m2f.validation.class_matching import match_classes

NAMES = {0: "car", 1: "road", 2: "sky"}


def test_names_decide_and_not_numbers():
    assert match_classes(NAMES, NAMES) == [0, 1, 2]
    assert match_classes(NAMES, {0: "sky", 1: "car", 2: "road"}) == [1, 2, 0]


def test_a_part_of_the_classes():
    """The only thing of both; stuff is not compared."""
    assert match_classes(NAMES, {0: "bus", 1: "car"}, counted=[1], predicted=[0]) == [1, -1, -1]
    with pytest.raises(ValueError, match="only in the checkpoint: road"):
        match_classes(NAMES, {0: "bus", 1: "car"}, counted=[1], predicted=[0, 1])


def test_classes_without_names_are_those_of_the_dataset():
    unnamed = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert match_classes(unnamed, NAMES) == [0, 1, 2]
    assert match_classes(unnamed, NAMES, predicted=[1]) == [-1, 1, -1]
    with pytest.raises(ValueError, match="LABEL_2"):
        match_classes(unnamed, {0: "car", 1: "road"})


def test_the_difference_is_named():
    with pytest.raises(ValueError, match="the 2 classes of the dataset are not the 3 .*dataset: bus; .*: road, sky;"):
        match_classes(NAMES, {0: "car", 1: "bus"})
    many = {label: f"class {label}" for label in range(12)}
    with pytest.raises(ValueError, match="only in the dataset: class 0, .*, class 9 and 2 more"):
        match_classes(NAMES, many)


def test_names_that_repeat_are_told_apart_by_their_order_alone():
    twice = {0: "car", 1: "road", 2: "car"}
    assert match_classes(twice, dict(twice)) == [0, 1, 2]
    with pytest.raises(ValueError, match="'car' more than once"):
        match_classes(twice, {0: "car", 1: "car", 2: "road"})
