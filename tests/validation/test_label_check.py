import pytest
from shapes_dataset import ShapesDataset

from m2f.validation.label_check import check_labels, dataset_classes, label_fields


@pytest.mark.parametrize(
    "trained",
    [{0: "cat", 1: "dog"}, {1: "dog", 0: "cat"}, {"0": "cat", "1": "dog"}, {0: "LABEL_0", 1: "LABEL_1"}],
)
def test_equal_classes_and_classes_without_names_fit(trained):
    check_labels(trained, {0: "cat", 1: "dog"}, "a checkpoint")


def test_what_differs_is_spelled_out():
    with pytest.raises(ValueError) as error:
        check_labels({0: "cat", 1: "dog", 2: "cow"}, {0: "dog", 1: "cat", 2: "hen", 3: "pig"}, "runs/a")
    text = str(error.value)
    for part in (
        "the 4 classes of the dataset are not the 3 that runs/a was trained for",
        "only in the dataset: hen, pig",
        "only in the checkpoint: cow",
        "with another id (checkpoint -> dataset): dog 1 -> 0, cat 0 -> 1",
        "--reset-classifier",
    ):
        assert part in text


def test_as_many_classes_without_names_are_not_enough():
    with pytest.raises(ValueError, match="the 3 classes of the dataset are not the 2"):
        check_labels({0: "LABEL_0", 1: "LABEL_1"}, {0: "cat", 1: "dog", 2: "cow"}, "a checkpoint")


def test_long_lists_are_cut():
    many = {i: f"class{i}" for i in range(30)}
    with pytest.raises(ValueError, match="class9 and 20 more"):
        check_labels({0: "cat"}, many, "a checkpoint")


def test_what_a_dataset_says_of_a_configuration():
    fields = label_fields(ShapesDataset(task="panoptic"))
    assert fields == {
        "id2label": {0: "red", 1: "green", 2: "blue"},
        "label2id": {"red": 0, "green": 1, "blue": 2},
        "task": "panoptic",
        "thing_label_ids": [0, 1],
    }
    assert dataset_classes(ShapesDataset()) == "3 classes (red, green, blue)"
